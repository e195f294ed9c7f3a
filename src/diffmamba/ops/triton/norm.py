"""RMS norms on Triton kernels, with their gradients; nothing is kept but the inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..parts import Slot, grad_like, slot_of
from ..remake import with_recipe
from .device import on_its_device
from .norm_kernels import norm_grads_kernel, norm_kernel

PROGRAMS = 1024
"""Rows are dealt to this many programs in the backward pass, each with a partial gradient of the weight."""


def _rows(x: Tensor) -> Tensor:
    """(rows, channels), without a copy if the rows are equally far apart."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 else x.contiguous()


def _rows_are_even(x: Tensor) -> bool:
    """Whether all rows are equally far apart; told by strides, as torch.compile cannot compare addresses."""
    return all(x.stride(i) == x.stride(i + 1) * x.shape[i + 1] for i in range(x.dim() - 2))


def _options(z: Tensor | None, weight: Tensor | None, width: int, eps: float, before: bool) -> dict[str, Any]:
    """What both kernels are compiled for."""
    return {
        "EPS": eps, "GATE": z is not None, "BEFORE": before, "HAS_WEIGHT": weight is not None,
        "N": triton.next_power_of_2(width),
    }  # fmt: skip


def _run(
    y: Tensor, z: Tensor | None, weight: Tensor | None, residual: Tensor | None, *, ngroups: int, eps: float,
    before: bool,
) -> Tensor:  # fmt: skip
    rows, gates, added = _rows(y), None if z is None else _rows(z), None if residual is None else _rows(residual)
    width = y.shape[-1] // ngroups
    out = torch.empty(y.shape, dtype=y.dtype if residual is None else residual.dtype, device=y.device)
    norm_kernel[(len(rows), ngroups)](
        rows, gates, weight, added, out, rows.stride(0), 0 if gates is None else gates.stride(0),
        0 if added is None else added.stride(0), width, HAS_RESIDUAL=added is not None,
        **_options(z, weight, width, eps, before),
    )  # fmt: skip
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, z: Tensor | None, weight: Tensor | None, residual: Tensor | None, ngroups: int,
        eps: float, before: bool, slot: Slot | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(y, z, weight)
        ctx.width, ctx.eps, ctx.before, ctx.slot = y.shape[-1] // ngroups, eps, before, slot
        ctx.has_residual = residual is not None
        return _run(y, z, weight, residual, ngroups=ngroups, eps=eps, before=before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight = ctx.saved_tensors
        rows, gates, douts = _rows(y), None if z is None else _rows(z), _rows(dout)
        dy = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        dz = None if z is None else grad_like(z, ctx.slot)
        if dz is not None and not _rows_are_even(dz):
            dz = torch.empty(dz.shape, dtype=dz.dtype, device=dz.device)
        dz_rows = None if dz is None else _rows(dz)
        programs = min(len(rows), PROGRAMS)
        dw = None if weight is None else torch.empty(programs, len(weight), dtype=torch.float32, device=y.device)
        norm_grads_kernel[(programs, y.shape[-1] // ctx.width)](
            rows, gates, weight, douts, dy, dz_rows, dw, rows.stride(0), 0 if gates is None else gates.stride(0),
            douts.stride(0), 0 if dz_rows is None else dz_rows.stride(0), len(rows), ctx.width,
            **_options(z, weight, ctx.width, ctx.eps, ctx.before),
        )  # fmt: skip
        dresidual = dout if ctx.has_residual else None
        return (
            dy,
            dz,
            None if dw is None or weight is None else dw.sum(0).to(weight.dtype),
            dresidual,
            None,
            None,
            None,
            None,
        )


@on_its_device
def norm_triton(
    y: Tensor, weight: Tensor | None, *, z: Tensor | None = None, residual: Tensor | None = None, ngroups: int = 1,
    eps: float = 1e-5, norm_before_gate: bool = False,
) -> Tensor:  # fmt: skip
    """`rms_norm`, or with a gate z `gated_rms_norm`, on Triton."""
    slot = None if z is None else slot_of(z)
    weight = None if weight is None else weight.contiguous()
    out = _Norm.apply(y, z, weight, residual, ngroups, eps, norm_before_gate, slot)
    if residual is not None:  # which nobody keeps
        return out
    make = partial(_run, ngroups=ngroups, eps=eps, before=norm_before_gate)
    return with_recipe(out, make, y, z, weight, None)
