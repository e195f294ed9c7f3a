"""Cross-entropy of labels under logits, with the logits read once and no copy of them in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import check_choice
from ._common import Backend, accumulate_dtype, resolve

Reduction = Literal["none", "sum", "mean"]


def cross_entropy_naive(
    logits: Float[Tensor, "*batch v"], labels: Int[Tensor, "*batch"], *, ignore_index: int, reduction: Reduction
) -> Tensor:
    """log(sum(exp(logits))) - logits[label], as it reads."""
    logits, ignored = logits.to(accumulate_dtype(logits)), labels == ignore_index
    own = logits.gather(-1, labels.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    return reduce_losses((logits.logsumexp(-1) - own).masked_fill(ignored, 0.0), labels, ignore_index, reduction)


def cross_entropy_torch(
    logits: Float[Tensor, "*batch v"], labels: Int[Tensor, "*batch"], *, ignore_index: int, reduction: Reduction
) -> Tensor:
    """PyTorch's own."""
    rows = logits.to(accumulate_dtype(logits)).flatten(0, -2)
    losses = F.cross_entropy(rows, labels.flatten(), ignore_index=ignore_index, reduction=reduction)
    return losses.view(labels.shape) if reduction == "none" else losses


def _fused(
    logits: Float[Tensor, "*batch v"], labels: Int[Tensor, "*batch"], *, ignore_index: int, reduction: Reduction
) -> Tensor:
    """Triton kernels."""
    from .triton.cross_entropy import cross_entropy_triton  # Triton is not on every machine

    return reduce_losses(cross_entropy_triton(logits, labels, ignore_index), labels, ignore_index, reduction)


def reduce_losses(
    losses: Float[Tensor, "*batch"], labels: Int[Tensor, "*batch"], ignore_index: int, reduction: Reduction
) -> Tensor:
    """The losses, their sum, or their mean over the labels that count."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (labels != ignore_index).sum()


def cross_entropy(
    logits: Float[Tensor, "*batch v"],
    labels: Int[Tensor, "*batch"],
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Loss of each label in nats, computed in fp32 (fp64 for fp64 logits), as `torch.nn.functional.cross_entropy`.

    Training keeps the logits as they are and one number a row; the gradient is as large as the logits. In plain PyTorch
    half-precision logits cost three copies in fp32.

    Args:
        logits: unnormalised log-probabilities, at least (1 v).
        labels: ids below v, or `ignore_index`.
        ignore_index: labels of this id count as a loss of 0, and not in the mean.
        reduction: "none" for (*batch), "sum", or "mean": over the labels that count, NaN without any.
        backend: "auto", "naive", "torch" or "triton".

    Raises:
        ValueError: an unknown reduction or backend.
        IndexError, RuntimeError: a label that is no id. Triton does not look, as that would wait for the GPU: its loss
            is NaN.
    """
    check_choice("reduction", reduction, get_args(Reduction))
    backends: dict[str, Callable[..., Tensor]] = {
        "naive": cross_entropy_naive,
        "torch": cross_entropy_torch,
        "triton": _fused,
    }
    compute = resolve("cross_entropy", backend, backends, logits)
    return compute(logits, labels, ignore_index=ignore_index, reduction=reduction)
