"""First-order linear recurrence h[t] = a[t] * h[t-1] + x[t], elementwise: what every Mamba scan rests on.

The time axis is cut into about sqrt(t) blocks that run side by side, so Python takes 3 sqrt(t) steps, not t.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def _scan(a: Tensor, x: Tensor, h: Tensor) -> Tensor:
    """All states (b t ...) from the state `h` (b ...) before them; `a` broadcasts against `x`."""
    seqlen = x.shape[1]
    block = seqlen if seqlen <= 32 else math.isqrt(seqlen - 1) + 1
    n_blocks = seqlen // block
    head, tail = n_blocks * block, seqlen - n_blocks * block
    states = torch.empty_like(x, memory_format=torch.contiguous_format)
    a_blocks, x_blocks, out_blocks = (m[:, :head].unflatten(1, (n_blocks, block)) for m in (a, x, states))

    starts = [h]
    if n_blocks > 1:  # the state each block would end with if it began at zero, then what the blocks before it add
        local, decay = x_blocks[:, :, 0], a_blocks[:, :, 0]
        for t in range(1, block):
            local = torch.addcmul(x_blocks[:, :, t], a_blocks[:, :, t], local)
            decay = decay * a_blocks[:, :, t]
        for k in range(n_blocks - 1):
            starts.append(torch.addcmul(local[:, k], decay[:, k], starts[-1]))
    state = torch.stack(starts, dim=1)
    for t in range(block):
        state = torch.addcmul(x_blocks[:, :, t], a_blocks[:, :, t], state)
        out_blocks[:, :, t] = state
    if tail:
        states[:, head:] = _scan(a[:, head:], x[:, head:], state[:, -1])
    return states


class _LinearScan(torch.autograd.Function):
    """The gradient of the recurrence is the same recurrence, run backwards in time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, x: Tensor, h: Tensor) -> Tensor:
        states = _scan(a, x, h)
        ctx.save_for_backward(a, h, states)
        return states

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,), (a, h, states) = grad_outputs, ctx.saved_tensors
        # dL/dx[t] = grad[t] + a[t+1] * dL/dx[t+1]
        a_next = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
        grad_x = _scan(a_next.flip(1), grad.flip(1), torch.zeros_like(h)).flip(1)
        before = torch.cat([h.unsqueeze(1), states[:, :-1]], dim=1)
        grad_a = (grad_x * before).sum_to_size(a.shape)
        return grad_a, grad_x, a[:, 0] * grad_x[:, 0]


def linear_scan(
    a: Float[Tensor, "b t *#rest"],
    x: Float[Tensor, "b t *rest"],
    initial_state: Float[Tensor, "b *rest"],
) -> Float[Tensor, "b t *rest"]:
    """All states of h[t] = a[t] * h[t-1] + x[t].

    Args:
        a: decays (b t ...); trailing sizes may be 1 and broadcast. A decay of 0 starts anew.
        x: inputs (b t ...).
        initial_state: h[-1], (b ...).
    """
    return _LinearScan.apply(a, x, initial_state)
