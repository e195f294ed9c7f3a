import json

import pytest

from diffmamba.bench import BenchConfig, bench
from diffmamba.errors import RunError

SMALL = {
    "d_model": 32,
    "n_layer": 1,
    "d_state": 8,
    "headdim": 16,
    "seqlen": 32,
    "new_tokens": 4,
    "repeats": 1,
    "rounds": 1,
}


def test_both_sides_are_measured(tmp_path, capsys):
    figures = bench(BenchConfig(**SMALL, out=tmp_path / "figures.json"))
    assert set(figures["runs"]) == {"diff_mamba2", "transformers"}
    for (run,) in figures["runs"].values():
        assert all(value > 0 for value in run.values())
    ours, peer = figures["runs"]["diff_mamba2"][0], figures["runs"]["transformers"][0]
    assert figures["ratios"]["train_s"][0] == pytest.approx(peer["train_s"] / ours["train_s"])
    assert figures["ratios"]["decode_tokens_per_s"][0] == pytest.approx(
        ours["decode_tokens_per_s"] / peer["decode_tokens_per_s"]
    )
    assert json.loads((tmp_path / "figures.json").read_text())["runs"] == figures["runs"]
    assert "times as good" in capsys.readouterr().out


def test_failure_of_a_side_is_named():
    with pytest.raises(RunError, match="measuring diff_mamba9 failed: ValueError: unknown architecture"):
        bench(BenchConfig(**SMALL, arch="diff_mamba9"))
    with pytest.raises(ValueError, match="`threads` must be at least 1; got 0"):
        bench(BenchConfig(**SMALL, threads=0))
