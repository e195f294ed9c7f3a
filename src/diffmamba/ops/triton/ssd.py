"""The SSD scan on Triton kernels, with its gradient; states are computed again in the backward pass, not kept."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ssd_kernels import grads_kernel, maps_kernel, outputs_kernel, states_kernel, steps_kernel

CHUNK = 64
MOST_HEADS = 1
"""Heads that one program takes in turn. 8 forward and 16 backward are faster, and right in Triton's interpreter, but
what Triton compiles of them has not been compared with the oracle on a GPU."""


class _Steps(NamedTuple):
    """How raw step sizes become final ones."""

    bias: Tensor | None
    softplus: bool
    limit: tuple[float, float]
    lengths: Tensor | None

    @property
    def bounds(self) -> tuple[float, float]:
        """The limit, or none: a raw step may be negative if softplus is not taken."""
        return (-math.inf, math.inf) if self.limit == (0.0, math.inf) else self.limit


def _sizes(x: Tensor, B: Tensor) -> tuple[int, int, int, int]:
    """seqlen, heads, heads of a group, chunks: what all kernels take."""
    _, seqlen, nheads, _ = x.shape
    return seqlen, nheads, nheads // B.shape[2], triton.cdiv(seqlen, CHUNK)


def _constants(x: Tensor, B: Tensor, seq_idx: Tensor | None) -> dict[str, Any]:
    """What all kernels are compiled for."""
    headdim, d_state = x.shape[3], B.shape[3]
    return {
        "headdim": headdim, "d_state": d_state, "P": _block(headdim), "N": _block(d_state), "Q": CHUNK,
        "PACKED": seq_idx is not None, "PRECISION": "ieee" if x.dtype == torch.float32 else "tf32",
    }  # fmt: skip


def _block(size: int, most: int = 1024) -> int:
    """A power of two, as blocks are, and at least the 16 of a matrix product."""
    return max(16, min(most, triton.next_power_of_2(size)))


def _heads_a_program(heads: int, most: int, programs: int) -> int:
    """How many heads share a program: as many as leave every multiprocessor some programs."""
    while heads > most or (heads > 1 and heads % 2 == 0 and programs // heads < 512):
        if heads % 2:
            return 1
        heads //= 2
    return heads


def _run_steps(dt: Tensor, A: Tensor, steps: _Steps) -> tuple[Tensor, Tensor]:
    batch, seqlen, nheads = dt.shape
    nchunks, H = triton.cdiv(seqlen, CHUNK), min(16, triton.next_power_of_2(nheads))
    step, cum = torch.empty(2, batch, nheads, nchunks * CHUNK, dtype=torch.float32, device=dt.device)
    steps_kernel[(nchunks, triton.cdiv(nheads, H), batch)](
        dt, steps.bias, A, steps.lengths, step, cum, seqlen, nheads, *steps.bounds, *dt.stride()[:2],
        HAS_BIAS=steps.bias is not None, SOFTPLUS=steps.softplus, HAS_LENGTHS=steps.lengths is not None, Q=CHUNK, H=H,
    )  # fmt: skip
    return step, cum


def _run_states(
    v: Tensor, k: Tensor, step: Tensor, cum: Tensor, carry: Tensor | None, seq_idx: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    batch, _, nheads, headdim = v.shape
    sizes, d_state = _sizes(v, k), k.shape[3]
    states = torch.empty(batch, sizes[3], nheads, headdim, d_state, dtype=v.dtype, device=v.device)
    end = torch.empty(batch, nheads, headdim, d_state, dtype=torch.float32, device=v.device)
    P, N = _block(headdim, 64), _block(d_state, 64)
    if batch * nheads * triton.cdiv(headdim, P) * triton.cdiv(d_state, N) < 256:
        P, N = min(P, 32), min(N, 32)
    constants = _constants(v, k, seq_idx) | {"P": P, "N": N}
    states_kernel[(triton.cdiv(headdim, P) * triton.cdiv(d_state, N), nheads, batch)](
        v, k, step, cum, seq_idx, carry, states, end, *sizes, *v.stride()[:3], *k.stride()[:3],
        REVERSE=reverse, HAS_CARRY=carry is not None, num_warps=4, num_stages=3, **constants,
    )  # fmt: skip
    return states, end


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, bias: Tensor | None,
        first: Tensor | None, softplus: bool, limit: tuple[float, float], seq_idx: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        step, cum = _run_steps(dt, A, _Steps(bias, softplus, limit, lengths))
        states, end = _run_states(x, B, step, cum, first, seq_idx, reverse=False)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        sizes, constants = _sizes(x, B), _constants(x, B, seq_idx)
        R = _heads_a_program(sizes[2], MOST_HEADS, x.shape[0] * sizes[3] * sizes[1])
        warps = 4
        if constants["P"] <= 32 and constants["N"] < 128:
            # Triton 3.6 compiles such small blocks to wrong code on Hopper: with 4 warps outputs are wrong, and memory
            # is read that is not there. Of this shape they are right.
            warps, constants["N"] = 8, 64
        outputs_kernel[(sizes[3], sizes[1] // R, x.shape[0])](
            x, B, C, step, cum, seq_idx, states, D, y, *sizes, *x.stride()[:3], *B.stride()[:3], *C.stride()[:3],
            HAS_D=D is not None, D_HEADDIM=D is not None and D.dim() == 2, R=R, num_warps=warps, num_stages=3,
            **constants,
        )  # fmt: skip
        ctx.save_for_backward(x, dt, A, B, C, D, bias, first, seq_idx, lengths)
        ctx.softplus, ctx.limit = softplus, limit
        return y, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dend: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, bias, first, seq_idx, lengths = ctx.saved_tensors
        steps = _Steps(bias, ctx.softplus, ctx.limit, lengths)
        step, cum = _run_steps(dt, A, steps)
        dy = dy if dy.stride(-1) == 1 else dy.contiguous()
        states, _ = _run_states(x, B, step, cum, first, seq_idx, reverse=False)
        dstates, dfirst = _run_states(dy, C, step, cum, dend.contiguous(), seq_idx, reverse=True)
        sizes, constants = _sizes(x, B), _constants(x, B, seq_idx)
        seqlen, nheads, heads_a_group, nchunks = sizes
        batch, wide = x.shape[0], constants["P"] > 32
        R = _heads_a_program(heads_a_group, MOST_HEADS, batch * nchunks * nheads)
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        ddt = torch.empty(batch, seqlen, nheads, dtype=dt.dtype, device=x.device)
        dA = torch.empty(batch * nchunks, nheads, dtype=torch.float32, device=x.device)
        dD = None if D is None else torch.empty(batch * nchunks, *D.shape, dtype=torch.float32, device=x.device)
        dproducts = torch.empty(batch, nchunks, nheads // R, CHUNK, CHUNK, dtype=x.dtype, device=x.device)
        grads_kernel[(nchunks, nheads // R, batch)](
            x, dt, bias, A, B, C, D, dy, step, cum, seq_idx, lengths, states, dstates, dx, ddt, dA, dproducts, dD,
            *sizes, *steps.bounds, *x.stride()[:3], *B.stride()[:3], *C.stride()[:3], *dt.stride()[:2],
            *dy.stride()[:3],
            HAS_BIAS=bias is not None, SOFTPLUS=ctx.softplus, HAS_LENGTHS=lengths is not None, HAS_D=D is not None,
            D_HEADDIM=D is not None and D.dim() == 2, R=R, num_warps=8 if wide else 4, num_stages=2 if wide else 1,
            **constants,
        )  # fmt: skip
        dB, dC = (torch.empty_like(m, memory_format=torch.contiguous_format) for m in (B, C))
        for v, other, ends, out in ((dy, B, states, dC), (x, C, dstates, dB)):
            maps_kernel[(nchunks, B.shape[2], batch)](
                v, other, step, cum, seq_idx, ends, dproducts, out, *sizes, heads_a_group // R, *v.stride()[:3],
                *other.stride()[:3], OF_C=out is dC, num_warps=4, num_stages=3, **constants,
            )  # fmt: skip
        return (
            dx, ddt, dA.sum(0), dB, dC, None if dD is None else dD.sum(0),
            None if bias is None else ddt.sum((0, 1), dtype=torch.float32), None if first is None else dfirst,
            None, None, None, None,
        )  # fmt: skip


def ssd_triton(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, D: Tensor | None, dt_bias: Tensor | None,
    dt_softplus: bool, dt_limit: tuple[float, float], initial_states: Tensor | None, seq_idx: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`ssd` on Triton; arguments as there, but for fp64."""
    x, dt, B, C = (m if m.stride(-1) == 1 else m.contiguous() for m in (x, dt, B.to(x.dtype), C.to(x.dtype)))
    D, dt_bias, first = (None if m is None else m.float().contiguous() for m in (D, dt_bias, initial_states))
    seq_idx, lengths = (None if m is None else m.to(torch.int32).contiguous() for m in (seq_idx, lengths))
    return _SSD.apply(x, dt, A.float().contiguous(), B, C, D, dt_bias, first, dt_softplus, dt_limit, seq_idx, lengths)
