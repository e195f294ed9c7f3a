"""`diffmamba compare`: train architectures side by side, on the same batches in the same order."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from ..data import MQAR, Corpus, load_corpus, load_tokenizer
from ..files import write_text
from ..generate import continue_text, load_model
from ..models import DiffMambaConfig, DiffMambaForCausalLM, build_config, state_bytes
from ..train import (
    FitSettings,
    LanguageSettings,
    RunFolder,
    Task,
    fit,
    language_config,
    language_task,
    progress_bar,
    recall_task,
)
from .report import build_report, write_report

TASKS = ("lm", "mqar")


@dataclass(frozen=True, kw_only=True)
class DemoLanguageSettings(LanguageSettings):
    """Language modelling, measured in held-out bits per byte."""

    steps: int = 300
    batch_size: int = 8
    lr: float = 4e-3
    eval_every: int = 50
    seqlen: int = 128
    eval_windows: int = 128


@dataclass(frozen=True, kw_only=True)
class RecallSettings(FitSettings):
    """Multi-query associative recall, measured as the share of values that come back."""

    steps: int = 300
    batch_size: int = 64
    lr: float = 1e-2
    eval_every: int = 50
    seqlen: int = 32
    """Tokens an example."""
    pairs: int = 4
    """Key-value pairs an example."""
    queries: int = 12
    """Questions an example."""
    vocab_size: int = 32
    """Filler, keys and values."""
    d_model: int = 64
    """Width; the preset's is larger than the task needs."""
    n_layer: int = 2
    """Layers."""
    d_state: int = 16
    """State size, which bounds what can be recalled."""
    test_examples: int = 512
    """Held-out examples to measure on."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Train architectures side by side and report what each reaches, at what cost."""

    out: Path
    """Folder to write to."""
    archs: str = "mamba2,diff_mamba2"
    """Architectures, separated by commas; the first is the baseline. Each is name or name:field=value:..."""
    preset: str = "tiny"
    """Size of the language models."""
    tasks: str = "lm,mqar"
    """lm, mqar or both."""
    seeds: int = 3
    """Seeds 0, 1, ... of every architecture and task."""
    match: Literal["parameters", "paper"] = "parameters"
    """parameters: two branches share the state, < 0.5 % more parameters than one; paper: as the paper, + 4.5 %."""
    data: Path | None = None
    """Text file, or folder of text files; by default the source of Python's standard library."""
    tokenizer: Path | None = None
    """Hugging Face tokenizer, a folder or a tokenizer.json; by default bytes."""
    lm: DemoLanguageSettings = field(default_factory=DemoLanguageSettings)
    mqar: RecallSettings = field(default_factory=RecallSettings)
    resume: bool = False
    """Go on with the comparison in `out`."""
    overwrite: bool = False
    """Delete the comparison in `out`."""

    def check(self) -> None:
        """Raise ValueError for values that cannot be."""
        if unknown := set(self.tasks.split(",")) - set(TASKS):
            raise ValueError(f"`tasks` must be lm, mqar or lm,mqar; got {', '.join(sorted(unknown))}")
        if self.seeds < 1:
            raise ValueError(f"`seeds` must be at least 1; got {self.seeds}")
        self.lm.check()
        self.mqar.check()

    def settings(self) -> dict[str, Any]:
        """What must stay the same when the comparison is resumed, as JSON values."""
        fields = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return {k: v for k, v in fields.items() if k not in ("out", "resume", "overwrite")}


def compare(config: CompareConfig) -> dict[str, Any]:
    """Train every cell that is not there yet, then write report.md, report.json and the pictures; return the report."""
    config.check()
    tokenizer = load_tokenizer(config.tokenizer)
    archs, tasks = config.archs.split(","), config.tasks.split(",")
    configs = {(arch, task): _model_config(config, arch, task, tokenizer) for arch in archs for task in tasks}
    corpus = load_corpus(config.data, tokenizer) if "lm" in tasks else None
    folder = RunFolder(config.out, config.settings(), resume=config.resume, overwrite=config.overwrite)
    cells = []
    with progress_bar() as progress:
        plan = [(task, seed, arch) for task in tasks for seed in range(config.seeds) for arch in archs]
        overall = progress.add_task("all runs", total=len(plan), status="")
        for task, seed, arch in plan:
            cell_folder = folder.path / "cells" / f"{task}-{slug(arch)}-seed{seed}"
            if task == "lm" and corpus is not None:
                lm = dataclasses.replace(config.lm, seed=seed)
                cell = Cell(task, arch, lm, language_task(corpus, tokenizer, lm))
            else:
                mqar = dataclasses.replace(config.mqar, seed=seed)
                cell = Cell(task, arch, mqar, _recall(mqar))
            cells.append(cell.run(configs[arch, task], cell_folder, progress))
            progress.update(overall, advance=1)
    report = build_report(config.settings(), cells, _samples(folder.path, archs, tokenizer, corpus) if corpus else {})
    write_report(folder.path, report)
    return report


def _samples(path: Path, archs: list[str], tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> dict[str, str]:
    """What each architecture's best model of seed 0 makes of the first line of the held-out text."""
    prompt = tokenizer.decode(corpus.held_out[:200]).partition("\n")[0] + "\n"
    found = {}
    for arch in archs:
        model, _ = load_model(path / "cells" / f"lm-{slug(arch)}-seed0" / "best")
        options = {"max_new_tokens": 250, "do_sample": True, "temperature": 0.7, "top_k": 0}
        found[arch] = continue_text(model, tokenizer, prompt, seed=0, **options)
    return found


def slug(arch: str) -> str:
    """An architecture as part of a file name."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in arch)


def _model_config(config: CompareConfig, arch: str, task: str, tokenizer: PreTrainedTokenizerBase) -> DiffMambaConfig:
    matching = "compact" if config.match == "parameters" else "paper"
    if task == "lm":
        return language_config(config.preset, arch, tokenizer, matching=matching)
    sizes = {name: getattr(config.mqar, name) for name in ("vocab_size", "d_model", "n_layer", "d_state")}
    return build_config(config.preset, arch, matching=matching, **sizes)


def _recall(settings: RecallSettings) -> Task:
    sizes: dict[str, Any] = {name: getattr(settings, name) for name in ("seqlen", "pairs", "queries", "vocab_size")}
    n_train = settings.steps * settings.batch_size * settings.accumulate
    # Seeds of training and test examples never meet: even ones train, odd ones test.
    train = MQAR(n_train, seed=2 * settings.seed, **sizes)
    return recall_task(train, MQAR(settings.test_examples, seed=2 * settings.seed + 1, **sizes))


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: an architecture, a task, a seed."""

    task: str
    arch: str
    settings: FitSettings
    learn: Task

    def run(self, model_config: DiffMambaConfig, path: Path, progress: Progress) -> dict[str, Any]:
        """Its measurements, its curve, and what its model costs; read back if it is finished already."""
        result_file = path / "result.json"
        if result_file.exists():
            return json.loads(result_file.read_text())
        torch.manual_seed(self.settings.seed)
        model = DiffMambaForCausalLM(model_config)
        folder = RunFolder(path, dataclasses.asdict(self.settings), resume=True)
        label = f"{self.task} {self.arch} seed {self.settings.seed}"
        measured = fit(model, self.learn, self.settings, folder, progress, label)
        result = {
            "task": self.task,
            "arch": self.arch,
            "seed": self.settings.seed,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "state_bytes": _state_bytes(model),
            "measured": measured,
            "curve": [line for line in folder.metrics() if "loss" not in line],
        }
        write_text(result_file, json.dumps(result, indent=2) + "\n")
        return result


@torch.no_grad()
def _state_bytes(model: DiffMambaForCausalLM) -> int:
    """Bytes that one sequence needs between two tokens."""
    outputs = model.eval()(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    return state_bytes(outputs.cache_params)
