"""Cross-entropy on Triton kernels, with its gradient. A row of logits is read once forward, and once backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .device import on_its_device

BLOCK = 4096
"""Logits of a row that are worked on at a time, at most."""


@triton.jit
def losses_kernel(
    logits_ptr, labels_ptr, losses_ptr, logsumexp_ptr, stride, width, ignored,
    V: tl.constexpr,
):  # fmt: skip
    """Of one row. Every lane has a maximum and a sum of its own, until the end."""
    row = tl.program_id(0).to(tl.int64)
    label, v = tl.load(labels_ptr + row), tl.arange(0, V)
    logits_ptr += row * stride
    top, total = tl.full((V,), float("-inf"), tl.float32), tl.zeros((V,), tl.float32)
    for first in range(0, width, V):
        x = tl.load(logits_ptr + first + v, first + v < width, float("-inf")).to(tl.float32)
        new = tl.maximum(top, x)
        base = tl.where(new == float("-inf"), 0.0, new)  # -inf - -inf would be NaN
        total = total * tl.exp(top - base) + tl.exp(x - base)
        top = new
    most = tl.max(top, 0)
    logsumexp = most + tl.log(tl.sum(total * tl.exp(top - most), 0))
    own = tl.load(logits_ptr + label, (label >= 0) & (label < width), float("nan")).to(tl.float32)
    tl.store(losses_ptr + row, tl.where(label == ignored, 0.0, logsumexp - own))
    tl.store(logsumexp_ptr + row, logsumexp)


@triton.jit
def logits_grads_kernel(
    logits_ptr, labels_ptr, logsumexp_ptr, dlosses_ptr, dlogits_ptr, stride, width, ignored,
    V: tl.constexpr,
):  # fmt: skip
    """(softmax - 1 at the label) dloss, of a part of one row."""
    row, v = tl.program_id(0).to(tl.int64), tl.program_id(1) * V + tl.arange(0, V)
    label = tl.load(labels_ptr + row)
    x = tl.load(logits_ptr + row * stride + v, v < width, 0.0).to(tl.float32)
    softmax = tl.exp(x - tl.load(logsumexp_ptr + row))
    dlogits = tl.where(v == label, softmax - 1.0, softmax) * tl.load(dlosses_ptr + row)
    dlogits = tl.where(label == ignored, 0.0, dlogits)
    tl.store(dlogits_ptr + row * width + v, dlogits.to(dlogits_ptr.dtype.element_ty), v < width)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
        nrows, width = logits.shape
        losses, logsumexp = torch.empty(2, nrows, dtype=torch.float32, device=logits.device)
        losses_kernel[(nrows,)](
            logits, labels, losses, logsumexp, logits.stride(0), width, ignored, V=_block(width), num_warps=8
        )
        ctx.save_for_backward(logits, labels, logsumexp)
        ctx.ignored = ignored
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, logsumexp = ctx.saved_tensors
        nrows, width = logits.shape
        dlogits = torch.empty(nrows, width, dtype=logits.dtype, device=logits.device)
        logits_grads_kernel[(nrows, triton.cdiv(width, _block(width)))](
            logits, labels, logsumexp, dlosses.contiguous(), dlogits, logits.stride(0), width, ctx.ignored,
            V=_block(width), num_warps=8,
        )  # fmt: skip
        return dlogits, None, None


def _block(width: int) -> int:
    return min(BLOCK, triton.next_power_of_2(width))


@on_its_device
def cross_entropy_triton(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """The loss of each label, in fp32, as `cross_entropy` without a reduction."""
    rows = logits.reshape(-1, logits.shape[-1])
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    return _CrossEntropy.apply(rows, labels.reshape(-1).contiguous(), ignored).view(labels.shape)
