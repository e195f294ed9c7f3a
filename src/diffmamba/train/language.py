"""`diffmamba train`: a language model from a preset, on text."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from transformers import PreTrainedTokenizerBase

from ..data import Corpus, TokenWindows, load_corpus, load_tokenizer
from ..models import DiffMambaConfig, DiffMambaForCausalLM, build_config
from .callbacks import progress_bar
from .curves import draw_curve
from .fit import Task, fit
from .run_folder import RunFolder
from .settings import FitSettings


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitSettings):
    """Train a language model on text, and measure bits per byte on files it does not see."""

    preset: Annotated[str, tyro.conf.Positional]
    """Size: tiny, 370m, ... (an unknown name lists them all)."""
    out: Path
    """Folder to write to."""
    data: Path | None = None
    """Text file, or folder of text files; by default the source of Python's standard library."""
    held_out: Path | None = None
    """Text to measure on; by default 5 % of `data`, split by file."""
    arch: str = "diff_mamba2"
    """Architecture, as name or name:field=value:..., e.g. mamba2, diff_mamba2:lambda_policy=token."""
    tokenizer: Path | None = None
    """Hugging Face tokenizer, a folder or a tokenizer.json; by default bytes."""
    seqlen: int = 256
    """Tokens a sequence."""
    eval_windows: int = 64
    """Held-out sequences to measure on."""
    resume: bool = False
    """Go on with the run in `out`."""
    overwrite: bool = False
    """Delete the run in `out`."""

    def settings(self) -> dict[str, Any]:
        """What must stay the same when a run is resumed, as JSON values."""
        fields = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        return {k: v for k, v in fields.items() if k not in ("out", "resume", "overwrite")}


def train(config: TrainConfig) -> dict[str, float]:
    """Train, save and draw; returns the last measurement."""
    tokenizer = load_tokenizer(config.tokenizer)
    model_config = language_config(config.preset, config.arch, tokenizer)
    corpus = load_corpus(config.data, tokenizer, config.held_out)
    task = language_task(corpus, tokenizer, config, config.seqlen, config.eval_windows)
    torch.manual_seed(config.seed)
    model = DiffMambaForCausalLM(model_config)
    folder = RunFolder(config.out, config.settings(), resume=config.resume, overwrite=config.overwrite)
    with progress_bar() as progress:
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        progress.console.print(
            f"{config.arch}, {n_parameters:,} parameters; {len(corpus.train):,} tokens to learn from, "
            f"{len(corpus.held_out):,} held out ({corpus.name})"
        )
        try:
            return fit(model, task, config, folder, progress, config.arch)
        finally:
            draw_curve(folder)


def language_config(preset: str, arch: str, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> DiffMambaConfig:
    """A preset's config with the vocabulary of a tokenizer, padded to a multiple of 16."""
    vocab_size = 16 * math.ceil(len(tokenizer) / 16)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return build_config(preset, arch, vocab_size=vocab_size, **ids, **changes)


def language_task(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, settings: FitSettings, seqlen: int, eval_windows: int
) -> Task:
    """Next-token prediction, measured in bits per byte: comparable between tokenizers, as nats a token are not."""
    size = settings.steps * settings.batch_size * settings.accumulate * max(1, torch.cuda.device_count())

    def bits_per_byte(metrics: dict[str, float]) -> dict[str, float]:
        return {"bits_per_byte": metrics["eval_loss"] / math.log(2) / corpus.bytes_per_token}

    return Task(
        train=TokenWindows(corpus.train, seqlen, size, settings.seed),
        test=TokenWindows(corpus.held_out, seqlen, eval_windows),
        seqlen=seqlen,
        summarize=bits_per_byte,
        tokenizer=tokenizer,
    )
