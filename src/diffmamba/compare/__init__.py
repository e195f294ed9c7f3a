"""Architectures side by side."""

from .report import tables as tables
from .run import CompareConfig as CompareConfig
from .run import compare as compare
