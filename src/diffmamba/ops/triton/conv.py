"""The causal convolution on Triton kernels, with its gradient; the sum before the SiLU is computed again, not kept."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .conv_kernels import conv_input_grads_kernel, conv_kernel, conv_sum_grads_kernel

TOKENS, CHANNELS = 64, 64


def _grid(x: Tensor, seqlen: int) -> tuple[int, int, int]:
    return triton.cdiv(seqlen, TOKENS), triton.cdiv(x.shape[2], CHANNELS), x.shape[0]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        past: Tensor | None,
        seq_idx: Tensor | None,
        silu: bool,
    ) -> Tensor:  # fmt: skip
        (_, seqlen, channels), y = x.shape, torch.empty(x.shape, dtype=x.dtype, device=x.device)
        options: dict[str, Any] = {
            "HAS_BIAS": bias is not None,
            "HAS_PAST": past is not None,
            "PACKED": seq_idx is not None,
        }
        options |= {"SILU": silu, "W": weight.shape[1], "T": TOKENS, "N": CHANNELS}
        conv_kernel[_grid(x, seqlen)](x, weight, bias, past, seq_idx, y, seqlen, channels, *x.stride()[:2], **options)
        ctx.save_for_backward(x, weight, bias, past, seq_idx)
        ctx.options = options
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, past, seq_idx = ctx.saved_tensors
        (batch, seqlen, channels), width = x.shape, weight.shape[1]
        dy = dy if dy.stride(-1) == 1 else dy.contiguous()
        grid = _grid(x, seqlen)
        dsum, dx = torch.empty(2, *x.shape, dtype=x.dtype, device=x.device)
        dw = torch.empty(batch * grid[0], width + 1, channels, dtype=torch.float32, device=x.device)
        conv_sum_grads_kernel[grid](
            x, weight, bias, past, seq_idx, dy, dsum, dw, seqlen, channels, *x.stride()[:2], *dy.stride()[:2],
            **ctx.options,
        )  # fmt: skip
        dpast = None if past is None else torch.empty(past.shape, dtype=torch.float32, device=x.device)
        options = {name: ctx.options[name] for name in ("HAS_PAST", "PACKED", "W", "T", "N")}
        conv_input_grads_kernel[_grid(x, seqlen + (0 if past is None else width))](
            dsum, weight, seq_idx, dx, dpast, seqlen, channels, **options
        )
        taps = dw.sum(0)
        dbias = None if bias is None else taps[width].to(bias.dtype)
        dpast = None if dpast is None or past is None else dpast.to(past.dtype)
        return dx, taps[:width].t().to(weight.dtype), dbias, dpast, None, None


def conv_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str | None, initial_states: Tensor | None,
    seq_idx: Tensor | None,
) -> Tensor:  # fmt: skip
    """Outputs of `causal_conv1d` on Triton."""
    x, weight = (m if m.stride(-1) == 1 else m.contiguous() for m in (x, weight))
    past = None if initial_states is None else initial_states.contiguous()
    seq_idx = None if seq_idx is None else seq_idx.to(torch.int32).contiguous()
    return _Conv.apply(x, weight.contiguous(), bias, past, seq_idx, activation == "silu")
