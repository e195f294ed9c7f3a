"""Speed and memory of this library's models, and of other libraries', side by side."""

from .report import tables as tables
from .run import bench as bench
from .settings import BenchConfig as BenchConfig
