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
from ..models import (
    DiffMambaConfig,
    DiffMambaForCausalLM,
    build_config,
    match_width,
    parse_architecture,
    split_architectures,
    state_bytes,
)
from ..run_folder import RunFolder
from ..train import (
    FitSettings,
    LanguageSettings,
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
    headdim: int = 32
    """Channels of a head."""
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
    """parameters: two branches halve the state, and add < 0.5 % parameters; paper: they keep it, and add 4.5 % at
    d_model 1024, more below."""
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
        if unknown := set(self.task_names) - set(TASKS):
            raise ValueError(f"`tasks` must be lm, mqar or lm,mqar; got {', '.join(sorted(unknown))}")
        for name, given in (("archs", self.arch_names), ("tasks", self.task_names)):
            if len(set(given)) < len(given):
                raise ValueError(f"`{name}` must name each once; got {','.join(given)}")
        if self.seeds < 1:
            raise ValueError(f"`seeds` must be at least 1; got {self.seeds}")
        self.lm.check()
        self.mqar.check()

    @property
    def arch_names(self) -> list[str]:
        return split_architectures(self.archs)

    @property
    def task_names(self) -> list[str]:
        return self.tasks.split(",")

    def settings(self) -> dict[str, Any]:
        """What must stay the same when the comparison is resumed, as JSON values."""
        fields = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return {k: v for k, v in fields.items() if k not in ("out", "resume", "overwrite")}


def compare(config: CompareConfig) -> dict[str, Any]:
    """Train every cell that is not there yet, then write report.md, report.json and the pictures; return the report."""
    config.check()
    tokenizer = load_tokenizer(config.tokenizer)
    corpus = load_corpus(config.data, tokenizer) if "lm" in config.task_names else None
    cells = _plan(config, tokenizer, corpus)  # before the folder is touched: all that can be wrong shows here
    folder = RunFolder(config.out, config.settings(), resume=config.resume, overwrite=config.overwrite)
    results = []
    with progress_bar() as progress:
        overall = progress.add_task("all runs", total=len(cells), status="")
        for cell in cells:
            results.append(cell.run(folder.path / "cells", progress))
            progress.update(overall, advance=1)
    samples = _samples(folder.path, config.arch_names, tokenizer, corpus) if corpus else {}
    report = build_report(config.settings(), results, samples)
    write_report(folder.path, report)
    return report


def _plan(config: CompareConfig, tokenizer: PreTrainedTokenizerBase, corpus: Corpus | None) -> list[Cell]:
    """All runs in order, a seed's architectures next to each other; their models built once, without memory."""
    cells = []
    for task in config.task_names:
        models = {arch: _model_config(config, arch, task, tokenizer) for arch in config.arch_names}
        for model_config in models.values():
            with torch.device("meta"):
                DiffMambaForCausalLM(model_config)
        for seed in range(config.seeds):
            settings: FitSettings
            if corpus is not None and task == "lm":
                settings = lm = dataclasses.replace(config.lm, seed=seed)
                learn = language_task(corpus, tokenizer, lm)
            else:
                settings = mqar = dataclasses.replace(config.mqar, seed=seed)
                learn = _recall(mqar)
            cells += [Cell(task, arch, settings, learn, model_config) for arch, model_config in models.items()]
    return cells


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
    sizes: dict[str, Any] = {"matching": "compact" if config.match == "parameters" else "paper"}
    if task == "mqar":
        sizes |= {name: getattr(config.mqar, name) for name in ("d_model", "n_layer", "d_state", "headdim")}
        sizes["d_intermediate"] = 0
    # What the architecture itself says goes first.
    sizes = {name: value for name, value in sizes.items() if name not in parse_architecture(arch)}
    if task != "mqar":
        return language_config(config.preset, arch, tokenizer, **sizes)
    sizes["vocab_size"] = config.mqar.vocab_size
    made = build_config(config.preset, arch, **sizes)
    if made.mixer == "attention" and "d_intermediate" in sizes:
        # As many layers as the others have, since recall takes two of attention; the MLPs make up the parameters.
        sizes["d_intermediate"] = match_width(made, build_config(config.preset, "mamba2", **sizes))
        made = build_config(config.preset, arch, **sizes)
    return made


def _recall(settings: RecallSettings) -> Task:
    sizes: dict[str, Any] = {name: getattr(settings, name) for name in ("seqlen", "pairs", "queries", "vocab_size")}
    n_train = settings.steps * settings.sequences_per_step
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
    model_config: DiffMambaConfig

    def run(self, cells: Path, progress: Progress) -> dict[str, Any]:
        """Its measurements, its curve, and what its model costs; read back if it is finished already."""
        path = cells / f"{self.task}-{slug(self.arch)}-seed{self.settings.seed}"
        result_file = path / "result.json"
        if result_file.exists():
            return json.loads(result_file.read_text())
        torch.manual_seed(self.settings.seed)
        model = DiffMambaForCausalLM(self.model_config)
        folder = RunFolder(path, dataclasses.asdict(self.settings), resume=True)
        label = f"{self.task} {self.arch} seed {self.settings.seed}"
        measured = fit(model, self.learn, self.settings, folder, progress, label)
        result = {
            "task": self.task,
            "arch": self.arch,
            "seed": self.settings.seed,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "state_bytes": _state_bytes(model, self.learn.seqlen),
            "measured": measured,
            "curve": [line for line in folder.metrics() if "loss" not in line],
        }
        write_text(result_file, json.dumps(result, indent=2) + "\n")
        return result


@torch.no_grad()
def _state_bytes(model: DiffMambaForCausalLM, seqlen: int) -> int:
    """Bytes that one sequence needs between two tokens, at its end: those of attention grow with it."""
    outputs = model.eval()(torch.zeros(1, seqlen, dtype=torch.long, device=model.device), use_cache=True)
    return state_bytes(outputs.cache_params)
