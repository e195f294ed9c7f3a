"""The loss of a causal language model."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..ops import cross_entropy


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor,
    vocab_size: int,
    num_items_in_batch: int | Tensor | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """transformers' `ForCausalLMLoss`, which on a GPU makes no copies of the logits in fp32.

    Args:
        logits: (b l v), in any dtype.
        labels: (b l), the model's own inputs; or `shift_labels`, by one token further.
        vocab_size: v.
        num_items_in_batch: divide the sum by this, not by the number of labels.
        ignore_index: a label that does not count.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    rows, ids = logits.reshape(-1, vocab_size), shift_labels.reshape(-1).to(logits.device)
    if num_items_in_batch is None:
        return cross_entropy(rows, ids, ignore_index=ignore_index)
    total = cross_entropy(rows, ids, ignore_index=ignore_index, reduction="sum")
    return total / (
        num_items_in_batch.to(total.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch
    )
