"""Evaluations: functions of a model that is there, on examples that all models share."""

from typing import Any

from ..data import MAD
from .babilong import BabilongTask
from .fabrication import FabricationTask
from .lra import ListOpsTask, TextClassificationTask
from .mad import MADTask
from .needle import NeedleTask
from .noise import NoiseRecallTask, NoiseTask
from .position import PositionTask
from .recall import MQARTask
from .report import build_report as build_report
from .report import sections as sections
from .report import tables as tables
from .report import write_report as write_report
from .subject import BATCH_TOKENS as BATCH_TOKENS
from .subject import Subject as Subject
from .subject import TooLong as TooLong
from .task import Cell as Cell
from .task import EvalTask as EvalTask
from .task import LearntTask as LearntTask
from .task import Metric as Metric
from .task import Recipe as Recipe
from .task import Scores as Scores
from .task import parse_task as parse_task
from .task import split_tasks as split_tasks
from .text import PerplexityTask

TASKS: dict[str, type[EvalTask]] = {
    task.name: task
    for task in (
        PerplexityTask, PositionTask, NoiseTask, NeedleTask, BabilongTask, FabricationTask,  # of text
        MQARTask, NoiseRecallTask, MADTask, ListOpsTask, TextClassificationTask,  # of token ids
    )
}  # fmt: skip

SUITES: dict[str, list[str]] = {
    "mad": [f"mad:subtask={subtask}" for subtask in MAD],
    "lra": ["listops", "text_classification"],
}
"""Tasks that are asked for by one name, and learnt one by one."""


def parse_tasks(specs: list[str], **defaults: Any) -> list[EvalTask]:
    """Tasks from `name:field=value:...`, each; the fields of a suite are given to all of its tasks."""
    found = []
    for spec in specs:
        name, colon, fields = spec.partition(":")
        whole = name in SUITES and "subtask=" not in fields
        found += [f"{task}{colon}{fields}" for task in SUITES[name]] if whole else [spec]
    return [parse_task(spec, TASKS, **defaults) for spec in found]
