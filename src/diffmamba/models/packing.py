"""Several sequences in a row, one after the other: every way to say where they begin, as one `seq_idx`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def packed_sequences(
    x: Float[Tensor, "b l d"],
    seq_idx: Int[Tensor, "b l"] | None,
    position_ids: Int[Tensor, "_ l"] | None,
    cu_seqlens: Int[Tensor, "n"] | None,
) -> Int[Tensor, "b l"] | None:
    """Which sequence each token belongs to, or None if a row is one sequence.

    Args:
        x: embeddings, for their shape.
        seq_idx: mamba_ssm's way: a number for each sequence.
        position_ids: transformers' padding-free way: a sequence begins where a position is not one more than the last.
        cu_seqlens: flash attention's way: where each sequence begins in the only row, and the row's length.

    Raises:
        ValueError: two of them that disagree, or `cu_seqlens` that does not fit the row.
    """
    found: dict[str, Int[Tensor, "b l"]] = {}
    if seq_idx is not None:
        found["seq_idx"] = seq_idx
    if cu_seqlens is not None:
        found["cu_seqlens"] = _from_cu_seqlens(cu_seqlens, *x.shape[:2])
    if position_ids is not None:
        found["position_ids"] = _from_position_ids(position_ids).expand(x.shape[0], -1)
    if not found:
        return None
    (name, chosen), *others = found.items()
    if torch.compiler.is_compiling():
        return chosen
    begins = _begins(chosen)
    for other_name, other in others:
        if not torch.equal(begins.expand(x.shape[0], -1), _begins(other)):
            raise ValueError(f"`{name}` and `{other_name}` begin sequences at different tokens; give one of them")
    return None if name == "position_ids" and not bool(begins.any()) else chosen


def _begins(seq_idx: Int[Tensor, "b l"]) -> Bool[Tensor, "b l-1"]:
    return seq_idx[:, 1:] != seq_idx[:, :-1]


def _from_position_ids(position_ids: Int[Tensor, "_ l"]) -> Int[Tensor, "_ l"]:
    begins = position_ids[:, 1:] != position_ids[:, :-1] + 1
    return F.pad(begins.long().cumsum(1), (1, 0))


def _from_cu_seqlens(cu_seqlens: Int[Tensor, "n"], batch: int, seqlen: int) -> Int[Tensor, "1 l"]:
    if batch != 1:
        raise ValueError(f"`cu_seqlens` is for a batch of one row; got {batch} rows")
    if not torch.compiler.is_compiling():
        ends = cu_seqlens.tolist()
        if len(ends) < 2 or ends[0] != 0 or ends[-1] != seqlen or sorted(ends) != ends:
            raise ValueError(f"`cu_seqlens` must rise from 0 to the row's length, {seqlen}; got {ends}")
    position = torch.arange(seqlen, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), position, right=True).unsqueeze(0)
