import random
import statistics

import pytest

from diffmamba.stats import estimate


def test_interval_covers_the_mean_95_times_in_100():
    draw = random.Random(0)
    covered = 0
    for _ in range(4000):
        found = estimate([draw.gauss(1.0, 2.0) for _ in range(3)])
        covered += abs(found.mean - 1.0) <= found.half_width
    assert 0.94 < covered / 4000 < 0.96


def test_values():
    found = estimate([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.half_width == pytest.approx(4.303 * statistics.stdev([1, 2, 4]) / 3**0.5)
    assert estimate([2.0]).half_width is None and estimate([2.0]).format(1) == "2.0 (one seed)"
    assert estimate([1.0] * 40).format(2, sign=True) == "+1.00 ± 0.00"
    with pytest.raises(ValueError, match="got none"):
        estimate([])
