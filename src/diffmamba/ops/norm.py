"""Root-mean-square norms: plain (arXiv 1910.07467), and Mamba-2's over groups of channels after a SiLU gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ._common import Backend, accumulate_dtype, resolve


def rms_norm_naive(
    x: Float[Tensor, "*batch i"], weight: Float[Tensor, "i"] | None = None, *, eps: float = 1e-5
) -> Float[Tensor, "*batch i"]:
    """x / sqrt(mean(x^2) + eps) * weight, as it reads."""
    x_ = x.to(accumulate_dtype(x))
    y = x_ / torch.sqrt((x_ * x_).mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight).to(x.dtype)


def rms_norm_torch(
    x: Float[Tensor, "*batch i"], weight: Float[Tensor, "i"] | None = None, *, eps: float = 1e-5
) -> Float[Tensor, "*batch i"]:
    """PyTorch's own RMS norm, which keeps one number a row for the backward pass."""
    x_ = x.to(accumulate_dtype(x))
    y = F.rms_norm(x_, x.shape[-1:], None if weight is None else weight.to(x_.dtype), eps)
    return y.to(x.dtype)


def rms_norm(
    x: Float[Tensor, "*batch i"],
    weight: Float[Tensor, "i"] | None = None,
    *,
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> Float[Tensor, "*batch i"]:
    """RMS norm over the last axis, in fp32 for half-precision inputs, returned in the dtype of x."""
    return resolve("rms_norm", backend, {"naive": rms_norm_naive, "torch": rms_norm_torch})(x, weight, eps=eps)


def gated_rms_norm_naive(
    y: Float[Tensor, "*batch i"],
    z: Float[Tensor, "*batch i"],
    weight: Float[Tensor, "i"],
    *,
    ngroups: int = 1,
    eps: float = 1e-5,
    norm_before_gate: bool = False,
) -> Float[Tensor, "*batch i"]:
    """Each group of channels normed by itself, with the gate before or after, as it reads."""
    dtype = accumulate_dtype(y)
    gate = F.silu(z.to(dtype))
    x = y.to(dtype) if norm_before_gate else y.to(dtype) * gate
    normed = torch.cat([rms_norm_naive(group, eps=eps) for group in x.chunk(ngroups, dim=-1)], dim=-1) * weight
    return (normed * gate if norm_before_gate else normed).to(y.dtype)


def gated_rms_norm_torch(
    y: Float[Tensor, "*batch i"],
    z: Float[Tensor, "*batch i"],
    weight: Float[Tensor, "i"],
    *,
    ngroups: int = 1,
    eps: float = 1e-5,
    norm_before_gate: bool = False,
) -> Float[Tensor, "*batch i"]:
    """The groups as one more axis of PyTorch's RMS norm."""
    dtype = accumulate_dtype(y)
    gate = F.silu(z.to(dtype))
    x = y.to(dtype) if norm_before_gate else y.to(dtype) * gate
    normed = rms_norm_torch(x.unflatten(-1, (ngroups, -1)), eps=eps).flatten(-2) * weight.to(dtype)
    return (normed * gate if norm_before_gate else normed).to(y.dtype)


def gated_rms_norm(
    y: Float[Tensor, "*batch i"],
    z: Float[Tensor, "*batch i"],
    weight: Float[Tensor, "i"],
    *,
    ngroups: int = 1,
    eps: float = 1e-5,
    norm_before_gate: bool = False,
    backend: Backend = "auto",
) -> Float[Tensor, "*batch i"]:
    """Mamba-2's norm: rms(y * silu(z)) * weight, or rms(y) * weight * silu(z) with `norm_before_gate`.

    Args:
        y: scan outputs (... i).
        z: gate (... i).
        weight: (i). A differential mixer folds its signs and lambda in here, at no cost per token.
        ngroups: the channels are normed in this many equal groups.
        eps: added to the mean square.
        norm_before_gate: order of the two.
        backend: "auto", "naive" or "torch".
    """
    compute = resolve("gated_rms_norm", backend, {"naive": gated_rms_norm_naive, "torch": gated_rms_norm_torch})
    return compute(y, z, weight, ngroups=ngroups, eps=eps, norm_before_gate=norm_before_gate)
