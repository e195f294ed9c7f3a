"""One side of a benchmark, measured in a process of its own: `python -m diffmamba.bench.worker '{...}'`."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM, PreTrainedModel

from ..models import DiffMambaForCausalLM, parse_architecture
from ..models.config import DiffMambaConfig


def build(side: str, sizes: dict[str, int]) -> PreTrainedModel:
    """A model of the given sizes: "transformers" is its Mamba-2; anything else is an architecture of this library."""
    if side == "transformers":
        nheads = 2 * sizes["d_model"] // sizes["headdim"]
        return Mamba2ForCausalLM(
            Mamba2Config(
                hidden_size=sizes["d_model"], num_hidden_layers=sizes["n_layer"], state_size=sizes["d_state"],
                head_dim=sizes["headdim"], num_heads=nheads, n_groups=1, expand=2, vocab_size=sizes["vocab_size"],
                tie_word_embeddings=True,
            )
        )  # fmt: skip
    return DiffMambaForCausalLM(DiffMambaConfig(**(sizes | parse_architecture(side))))


def median_seconds(job: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a job, after one run that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure(
    side: str, sizes: dict[str, int], *, batch: int, seqlen: int, new_tokens: int, repeats: int
) -> dict[str, float]:
    """Times of a training step's forward and backward, of inference, and of decoding; and the memory of all three.

    Inputs are random and new at every repetition.

    Returns:
        "train_s" and "forward_s" for one batch, "decode_tokens_per_s", "peak_mb" above what the imports took.
    """
    imported = _resident_mb()
    torch.manual_seed(0)
    model = build(side, sizes)

    def tokens(length: int) -> Tensor:
        return torch.randint(1, sizes["vocab_size"], (batch, length))

    def step() -> None:
        ids = tokens(seqlen)
        model(ids, labels=ids).loss.backward()
        model.zero_grad()

    @torch.no_grad()
    def forward() -> None:
        model(tokens(seqlen), use_cache=False)

    def decode() -> None:
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        model.generate(tokens(16), do_sample=False, pad_token_id=0, **length)

    train_s = median_seconds(step, repeats)
    model.eval()
    found = {"train_s": train_s, "forward_s": median_seconds(forward, repeats)}
    found["decode_tokens_per_s"] = batch * new_tokens / median_seconds(decode, max(1, repeats // 3))
    found["peak_mb"] = _peak_mb() - imported
    return found


def _resident_mb() -> float:
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 2**20
    return _peak_mb()  # the peak so far is the best that is known


def _peak_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes or kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request.pop("threads"))
    print(json.dumps(measure(**request)))
