"""Means and intervals over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Student's t at 97.5 %, by degrees of freedom from 1; beyond the table the normal's 1.96 is within 4 %.
_T: tuple[float, ...] = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Estimate(NamedTuple):
    """A mean and the half-width of its 95 % interval; the half-width of a single value is None."""

    mean: float
    half_width: float | None
    n: int

    def format(self, digits: int, sign: bool = False) -> str:
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return f"{mean} (one seed)" if self.half_width is None else f"{mean} ± {self.half_width:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of a few values by Student's t, as if they were drawn from one normal distribution.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("`values` must hold at least one value; got none")
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Estimate(mean, None, 1)
    t = _T[n - 2] if n - 2 < len(_T) else 1.96
    return Estimate(mean, t * statistics.stdev(values) / math.sqrt(n), n)


def median_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest."""
    return statistics.median(values), min(values), max(values)
