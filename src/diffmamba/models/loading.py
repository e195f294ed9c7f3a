"""A saved model is checked whole before transformers loads it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel

from ..errors import RunError
from .config import DiffMambaConfig
from .weights import check_finite, check_fit, open_weights, read_json


def read_config(folder: Path) -> DiffMambaConfig:
    """The config of a saved model.

    Raises:
        RunError: it cannot be read, is of another kind of model, or contradicts itself.
    """
    found = read_json(folder / "config.json")
    if (kind := found.get("model_type")) != DiffMambaConfig.model_type:
        raise RunError(
            f"{folder} holds a model of type {kind!r}, not {DiffMambaConfig.model_type!r}; `diffmamba convert` reads "
            "models of transformers and mamba_ssm"
        )
    try:
        return DiffMambaConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers answers a damaged config with whatever its own code trips over
        raise RunError(f"{folder / 'config.json'}: {error}") from error


def expected_shapes(
    model_class: type[PreTrainedModel], config: DiffMambaConfig, found: Iterable[str], where: object
) -> dict[str, tuple[int, ...]]:
    """Every weight of a model, without the head if it is the embedding.

    Args:
        model_class: the model.
        config: its sizes.
        found: names in a file, to see that the number of layers is right before that many are built.
        where: of the file, for errors.
    """
    layers = {match[1] for name in found if (match := re.search(r"\blayers\.(\d+)\.", name))}
    if len(layers) != config.n_layer:
        raise RunError(f"the weights in {where} are of {len(layers)} layers; its config.json says {config.n_layer}")
    try:
        with torch.device("meta"):
            model = model_class(config)
    except (ValueError, TypeError, RuntimeError) as error:  # TypeError: a size beyond 64 bits
        raise RunError(f"the config.json in {where} has sizes that cannot be: {error}") from error
    tied = model.all_tied_weights_keys
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def check_checkpoint(
    model_class: type[PreTrainedModel],
    name: str | os.PathLike[str],
    *,
    config: Any = None,
    subfolder: str = "",
    variant: str | None = None,
    ignore_mismatched_sizes: bool = False,
    **others: Any,
) -> None:
    """Raise RunError unless a checkpoint can be loaded whole; arguments are those of `from_pretrained`."""
    if variant is not None:
        raise ValueError(f"`variant` is not supported; got {variant!r}. Keep that variant in a folder of its own.")
    if not os.path.isdir(name):
        hub = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        options = {option: others[option] for option in hub if option in others}
        name = snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"], **options)
    folder = Path(name, subfolder)
    config = config if isinstance(config, DiffMambaConfig) else read_config(folder)
    weights = open_weights(folder)
    # A base model may be loaded from the file of a whole one.
    prefix, head = "backbone.", "lm_head.weight"
    found = {key.removeprefix(prefix): shape for key, shape in weights.shapes.items()}
    expected = {
        key.removeprefix(prefix): shape
        for key, shape in expected_shapes(model_class, config, weights.shapes, folder).items()
    }
    if head not in expected and not config.tie_word_embeddings:
        found.pop(head, None)
    if ignore_mismatched_sizes:
        expected = {key: found.get(key, shape) for key, shape in expected.items()}
    check_fit(folder, found, expected)
    check_finite(folder, ((key, weights.read(key)) for key in weights.shapes))
