"""Every test starts from the same seed, on one thread (the tests run on all cores side by side)."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def nan_filled_empty(monkeypatch):
    """Memory that was never written reads as NaN, so that using it fails a comparison."""

    def filled(function):
        def wrapper(*args, **kwargs):
            made = function(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return wrapper

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", filled(torch.Tensor.new_empty))


@pytest.fixture
def unchecked_types():
    """Without the shape and type checks that only tests have, to see the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
