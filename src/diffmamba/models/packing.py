"""Several sequences in a row, one after the other: every way to say where they begin, as one `seq_idx`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
        ValueError: more than one of them, or `cu_seqlens` that does not fit the row.
    """
    ways = {"seq_idx": seq_idx, "position_ids": position_ids, "cu_seqlens": cu_seqlens}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of seq_idx, position_ids and cu_seqlens; got {' and '.join(given)}")
    if cu_seqlens is not None:
        return _from_cu_seqlens(cu_seqlens, *x.shape[:2])
    if position_ids is not None:
        begins = position_ids[:, 1:] != position_ids[:, :-1] + 1
        if not torch.compiler.is_compiling() and not bool(begins.any()):
            return None
        return F.pad(begins.long().cumsum(1), (1, 0)).expand(x.shape[0], -1)
    return seq_idx


def _from_cu_seqlens(cu_seqlens: Int[Tensor, "n"], batch: int, seqlen: int) -> Int[Tensor, "1 l"]:
    if batch != 1:
        raise ValueError(f"`cu_seqlens` is for a batch of one row; got {batch} rows")
    if not torch.compiler.is_compiling():
        ends = cu_seqlens.tolist()
        if len(ends) < 2 or ends[0] != 0 or ends[-1] != seqlen or sorted(ends) != ends:
            raise ValueError(f"`cu_seqlens` must rise from 0 to the row's length, {seqlen}; got {ends}")
    position = torch.arange(seqlen, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), position, right=True).unsqueeze(0)
