"""Named sizes and named architectures; together they make a config."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from ..errors import nearest
from .config import DiffMambaConfig

_SIZES: dict[str, dict[str, Any]] = {
    # Learns on a laptop CPU within minutes; bytes.
    "tiny": {"vocab_size": 256, "d_model": 128, "n_layer": 4, "d_state": 32, "headdim": 32},
    # arXiv 2507.06204: a "layer" is two mixers and one GELU MLP of four times the width, norms after the residual sum.
    # Not reproduced: LayerNorm (RMSNorm here) and the adaptive softmax.
    "paper-lm-6": {
        "d_model": 1024, "n_layer": 12, "d_state": 64, "headdim": 128, "d_intermediate": [0, 4096] * 6,
        "mlp": "gelu", "norm_order": "post", "dropout": 0.25,
    },
    "paper-lm-12": {
        "d_model": 1024, "n_layer": 24, "d_state": 64, "headdim": 128, "d_intermediate": [0, 4096] * 12,
        "mlp": "gelu", "norm_order": "post", "dropout": 0.25,
    },
    # 368M vanilla, 382M differential, with GPT-NeoX's vocabulary.
    "370m": {"d_model": 1024, "n_layer": 48, "d_state": 128, "headdim": 64},
    # 375M, differential on even layers.
    "370m-hybrid": {"d_model": 1024, "n_layer": 48, "d_state": 128, "headdim": 64, "pattern": "alternate"},
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = _SIZES | {
    f"{name}-compact": sizes | {"matching": "compact"} for name, sizes in _SIZES.items()
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mamba": {"mixer": "mamba", "branches": 1},
    "mamba2": {"mixer": "mamba2", "branches": 1},
    "diff_mamba": {"mixer": "mamba", "branches": 2},
    "diff_mamba2": {"mixer": "mamba2", "branches": 2},
    "diff_s6": {"mixer": "mamba", "branches": 2, "site": "ssm"},
}


def parse_architecture(spec: str) -> dict[str, Any]:
    """Config fields of an architecture, written `name` or `name:field=value:...`.

    For example `diff_mamba2:lambda_policy=token:post_norm=false`.

    Raises:
        ValueError: an unknown name or field, with the nearest that exists.
    """
    name, *changes = spec.split(":")
    fields = dict(_lookup("architecture", name, ARCHITECTURES))
    known = {field.name: None for field in dataclasses.fields(DiffMambaConfig)}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"write an architecture as name:field=value; got {spec!r}, where {change!r} has no '='")
        _lookup("config field", field, known)
        fields[field] = _parse_value(value)
    return fields


def build_config(preset: str, architecture: str = "diff_mamba2", **changes: Any) -> DiffMambaConfig:
    """A config from the name of a preset and an architecture; `changes` override both.

    A Mamba-1 architecture has state size 16 unless `changes` or the architecture say otherwise, as its authors have.

    Raises:
        ValueError: an unknown name, with the nearest that exists.
    """
    sizes, fields = _lookup("preset", preset, PRESETS), parse_architecture(architecture)
    mamba1 = {"d_state": 16} if fields["mixer"] == "mamba" else {}
    return DiffMambaConfig(**(sizes | mamba1 | fields | changes))


def _lookup(kind: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}{nearest(name, table)} Known: {', '.join(table)}.")
    return table[name]


def split_architectures(text: str) -> list[str]:
    """A list of architectures, at its commas; those inside the list of a field's values do not count."""
    return re.split(r",(?![^\[]*\])", text)


def _parse_value(text: str) -> Any:
    """Numbers, booleans and lists as in JSON; anything else is a string."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
