"""Speed and memory against other libraries."""

from .run import BenchConfig as BenchConfig
from .run import bench as bench
