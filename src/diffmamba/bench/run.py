"""`diffmamba bench`: an architecture of this library against a peer, in turns, each run in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..errors import RunError
from ..files import write_text
from ..stats import median_and_range

ROWS = {
    "train_s": "forward + backward, s",
    "forward_s": "forward, s",
    "decode_tokens_per_s": "decoding, tokens/s",
    "peak_mb": "peak memory, MB",
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Time training, inference and decoding on the CPU against a peer of the same sizes."""

    peer: Literal["transformers"] = "transformers"
    """transformers: its Mamba-2 in pure PyTorch."""
    arch: str = "diff_mamba2"
    """Architecture of this library, as name or name:field=value:..."""
    d_model: int = 512
    """Width."""
    n_layer: int = 4
    """Layers."""
    d_state: int = 128
    """State size."""
    headdim: int = 64
    """Channels of a head."""
    vocab_size: int = 256
    """Size of the embedding."""
    batch: int = 1
    """Sequences at a time."""
    seqlen: int = 1024
    """Tokens a sequence."""
    new_tokens: int = 100
    """Tokens to decode after a prompt of 16."""
    threads: int = 2
    """Of PyTorch."""
    repeats: int = 7
    """Timed repetitions in a process, after one that is not counted."""
    rounds: int = 3
    """Processes for each side, in turns."""
    out: Path | None = None
    """JSON file for the figures."""

    def check(self) -> None:
        """Raise ValueError for values that cannot be."""
        for name in ("batch", "seqlen", "new_tokens", "threads", "repeats", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}")


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure both sides in turns, print a table of medians and ratios, and return the figures."""
    config.check()
    if config.out is not None and not config.out.parent.is_dir():
        raise RunError(f"no folder {config.out.parent} to write {config.out.name} to")
    runs: dict[str, list[dict[str, float]]] = {config.arch: [], config.peer: []}
    for side in track([config.arch, config.peer] * config.rounds, description="measuring"):
        runs[side].append(_in_own_process(config, side))
    table = Table("", config.arch, config.peer, "times as good", title="medians of all processes (smallest to largest)")
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "out"}
    figures: dict[str, Any] = {"settings": settings, "runs": runs, "ratios": {}}
    for name, title in ROWS.items():
        ours, peers = ([run[name] for run in runs[side]] for side in (config.arch, config.peer))
        pairs = [a / b if name.endswith("per_s") else b / a for a, b in zip(ours, peers, strict=True)]
        figures["ratios"][name] = median_and_range(pairs)
        cells = (_show(median_and_range(values)) for values in (ours, peers, pairs))
        table.add_row(title, *cells)
    figures["machine"] = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    Console(width=max(Console().width, 110)).print(table)
    if config.out is not None:
        write_text(config.out, json.dumps(figures, indent=2) + "\n")
    return figures


def _in_own_process(config: BenchConfig, side: str) -> dict[str, float]:
    sizes = {name: getattr(config, name) for name in ("d_model", "n_layer", "d_state", "headdim", "vocab_size")}
    request = {name: getattr(config, name) for name in ("batch", "seqlen", "new_tokens", "threads", "repeats")}
    request |= {"side": side, "sizes": sizes}
    command = [sys.executable, "-m", "diffmamba.bench.worker", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        raise RunError(f"measuring {side} failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def _show(values: tuple[float, float, float]) -> str:
    median, low, high = (f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)
    return f"{median}  ({low} to {high})"
