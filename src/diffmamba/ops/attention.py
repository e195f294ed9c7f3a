"""Causal softmax attention of one branch, or the difference of two (arXiv 2410.05258), and rotary positions.

    y = (softmax(q_1 k_1^T / sqrt(p)) - lambda softmax(q_2 k_2^T / sqrt(p))) v

Shapes, beyond the letters of `_common`: m keys' time, r branches of queries, s branches of keys; g heads of keys and
values in a branch, each shared by h / g heads of queries; v has its channels in s parts, so that k and v are alike.

| | r | s | values are as wide as |
|---|---|---|---|
| Transformer | 1 | 1 | a query |
| Diff-Transformer (V1): both branches have keys | 2 | 2 | two queries |
| Diff-Transformer V2: two queries read the same keys | 2 | 1 | a query |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._common import Backend, accumulate_dtype, resolve


def attention_naive(
    q: Float[Tensor, "b r h l p"],
    k: Float[Tensor, "b s g m p"],
    v: Float[Tensor, "b s g m p"],
    lam: Float[Tensor, "#b #l #h"] | None = None,
    *,
    mask: Bool[Tensor, "b l m"] | None = None,
) -> Float[Tensor, "b h l e"]:
    """The equation as it reads, with the whole matrix of weights: the oracle."""
    dtype, (_, branches, heads, seqlen, width) = accumulate_dtype(q), q.shape
    shared = heads // k.shape[2]
    k = k.repeat_interleave(branches // k.shape[1], dim=1).repeat_interleave(shared, dim=2)
    v = torch.cat(v.unbind(1), dim=-1).repeat_interleave(shared, dim=1)
    seen = _causal(seqlen, k.shape[3], q.device) if mask is None else mask[:, None, None]

    scores = torch.einsum("brhlp,brhmp->brhlm", q.to(dtype), k.to(dtype)) / math.sqrt(width)
    weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1)
    weights = weights[:, 0] if lam is None else weights[:, 0] - lam.to(dtype).mT[..., None] * weights[:, 1]
    return torch.einsum("bhlm,bhme->bhle", weights, v.to(dtype)).to(q.dtype)


def attention_torch(
    q: Float[Tensor, "b r h l p"],
    k: Float[Tensor, "b s g m p"],
    v: Float[Tensor, "b s g m p"],
    lam: Float[Tensor, "#b #l #h"] | None = None,
    *,
    mask: Bool[Tensor, "b l m"] | None = None,
) -> Float[Tensor, "b h l e"]:
    """The difference of outputs, not of weights, so that PyTorch's fused attention never writes the weights out.

    Branches are more heads of one call. Flash kernels want values as wide as queries, so V1, whose values have two
    parts, calls once for each; V2 and a plain Transformer call once.
    """
    dtype, parts, seqlen, length = accumulate_dtype(q), k.shape[1], q.shape[3], k.shape[3]
    # Heads that share keys stand side by side, as kernels want them: V2's two branches do.
    queries = q.unflatten(1, (parts, -1)).transpose(2, 3).flatten(1, 3)
    # Flash kernels take no mask, and PyTorch's `is_causal` means as many queries as keys.
    options: dict[str, Any] = {}
    if mask is not None:
        options["attn_mask"] = mask[:, None]
    elif seqlen == length:
        options["is_causal"] = True
    elif seqlen > 1:
        options["attn_mask"] = _causal(seqlen, length, q.device)

    shared = queries.shape[1] // (parts * k.shape[2])
    if shared > 1 and q.is_cuda and ("attn_mask" in options or q.dtype == dtype):
        # There only flash kernels share keys among heads, in half precision: others want them repeated.
        k, v = k.repeat_interleave(shared, dim=2), v.repeat_interleave(shared, dim=2)
    elif shared > 1:
        options["enable_gqa"] = True
    outputs = [
        F.scaled_dot_product_attention(
            queries, k.flatten(1, 2), part.unsqueeze(1).expand(-1, parts, -1, -1, -1).flatten(1, 2), **options
        )
        for part in v.unbind(1)
    ]
    y = outputs[0] if parts == 1 else torch.cat(outputs, dim=-1)
    if lam is None:
        return y
    first, second = y.unflatten(1, (parts, q.shape[2], -1)).transpose(2, 3).flatten(1, 2).unbind(1)
    return torch.addcmul(first.to(dtype), lam.to(dtype).mT[..., None], second.to(dtype), value=-1).to(q.dtype)


def attention(
    q: Float[Tensor, "b r h l p"],
    k: Float[Tensor, "b s g m p"],
    v: Float[Tensor, "b s g m p"],
    lam: Float[Tensor, "#b #l #h"] | None = None,
    *,
    mask: Bool[Tensor, "b l m"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "b h l e"]:
    """Softmax attention, or the difference of two.

    Args:
        q: queries (b r h l p), the last l of the m tokens.
        k: keys (b s g m p); s is r, or 1 for branches that share them; g divides h.
        v: values (b s g m p), s parts of p channels.
        lam: weight of the second branch, broadcast to (b l h); None with one branch.
        mask: (b l m), True where a query sees a key, at least one for each; None: a token sees itself and all before.
        backend: "auto", "naive" or "torch".

    Returns:
        (b h l e), e = s * p.
    """
    backends: dict[str, Callable[..., Tensor]] = {"naive": attention_naive, "torch": attention_torch}
    return resolve("attention", backend, backends, q)(q, k, v, lam, mask=mask)


def _causal(seqlen: int, length: int, device: torch.device) -> Bool[Tensor, "l m"]:
    """The last `seqlen` of `length` tokens see themselves and all before."""
    return torch.ones(seqlen, length, dtype=torch.bool, device=device).tril(length - seqlen)


def rotary(x: Float[Tensor, "b h l p"], position: Int[Tensor, "#b l"], theta: float) -> Float[Tensor, "b h l p"]:
    """Rotary positions (arXiv 2104.09864): channels j and j + p/2 are a complex number, turned by
    position * theta^(-2j/p).

    Scores then depend on the distance of two tokens alone.
    """
    dtype, width = accumulate_dtype(x), x.shape[-1]
    speed = theta ** (torch.arange(0, width, 2, device=x.device, dtype=dtype) / -width)
    angle = position[:, None, :, None] * speed
    cos, sin = angle.cos(), angle.sin()
    real, imaginary = x.to(dtype).chunk(2, dim=-1)
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1).to(x.dtype)
