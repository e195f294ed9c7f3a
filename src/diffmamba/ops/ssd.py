"""State space duality (SSD), the scan of Mamba-2: arXiv 2405.21060, section 6.

For each head, with step dt[t], decay A < 0, state S (p n):

    S[t] = exp(dt[t] * A) * S[t-1] + dt[t] * x[t] B[t]^T
    y[t] = S[t] C[t] + D * x[t]

B and C are shared by the heads of a group; a differential mixer's branches are groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._common import Backend, accumulate_dtype, continues, no_autocast, resolve, step_sizes
from .linear_scan import linear_scan


class SSDOutput(NamedTuple):
    y: Float[Tensor, "b l h p"]
    final_states: Float[Tensor, "b h p n"]


def ssd_naive(
    x: Float[Tensor, "b l h p"],
    dt: Float[Tensor, "b l h"],
    A: Float[Tensor, "h"],
    B: Float[Tensor, "b l g n"],
    C: Float[Tensor, "b l g n"],
    *,
    D: Float[Tensor, "..."] | None = None,
    initial_states: Float[Tensor, "b h p n"] | None = None,
    seq_idx: Int[Tensor, "b l"] | None = None,
    chunk_size: int = 64,
) -> SSDOutput:
    """The recurrence, a token at a time; `dt` holds the final step sizes, and there are no chunks to size."""
    batch, seqlen, nheads, headdim = x.shape
    B, C = (m.repeat_interleave(nheads // m.shape[2], dim=2) for m in (B, C))
    keep = torch.ones_like(x[:, :, 0, 0]) if seq_idx is None else continues(seq_idx).to(x.dtype)
    state = x.new_zeros(batch, nheads, headdim, B.shape[-1]) if initial_states is None else initial_states.to(x.dtype)
    outputs = []
    for t in range(seqlen):
        decay = torch.exp(dt[:, t] * A) * keep[:, t, None]
        state = decay[..., None, None] * state + torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t])
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]))
    y = torch.stack(outputs, dim=1)
    return SSDOutput(y if D is None else y + _per_head(D) * x, state)


def ssd_torch(
    x: Float[Tensor, "b l h p"],
    dt: Float[Tensor, "b l h"],
    A: Float[Tensor, "h"],
    B: Float[Tensor, "b l g n"],
    C: Float[Tensor, "b l g n"],
    *,
    D: Float[Tensor, "..."] | None = None,
    initial_states: Float[Tensor, "b h p n"] | None = None,
    seq_idx: Int[Tensor, "b l"] | None = None,
    chunk_size: int = 64,
) -> SSDOutput:
    """Matrix products inside chunks, a scan over the states between them (arXiv 2405.21060, section 6).

    Letters beyond the usual: c chunks, l and s positions in a chunk, r heads of a group.
    """
    (batch, seqlen, nheads, headdim), (ngroups, d_state) = x.shape, B.shape[2:]
    chunk_size = min(chunk_size, seqlen)
    groups = (ngroups, nheads // ngroups)
    X = _chunked(x * dt[..., None], chunk_size).unflatten(3, groups)  # b c l g r p
    B, C = (_chunked(m, chunk_size).transpose(2, 3) for m in (B, C))  # b c g l n
    cum = _chunked(dt * A, chunk_size).cumsum(2).movedim(2, -1).unflatten(2, groups)  # b c g r l
    packed = None if seq_idx is None else _PackedChunks(seq_idx, chunk_size)

    # 1. Inside a chunk: attention-like scores, masked before the exponential so that no inf meets a 0.
    hidden = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=x.device).triu(1)
    if packed is not None:
        hidden = hidden | packed.apart()[:, :, None, None]
    log_decay = (cum[..., :, None] - cum[..., None, :]).masked_fill(hidden, -torch.inf)
    scores = (C @ B.mT).unsqueeze(3) * log_decay.exp()  # b c g r l s
    Y_inside = scores @ X.permute(0, 1, 3, 4, 2, 5)  # b c g r l p

    # 2. What each chunk adds to the state at its end, and how much of the state before it survives.
    to_end, survives = (cum[..., -1:] - cum).exp(), cum[..., -1].exp()
    if packed is not None:
        to_end, survives = to_end * packed.reaches_end(), survives * packed.passes_through()
    weighted = X * to_end.permute(0, 1, 4, 2, 3)[..., None]
    added = B.mT @ weighted.flatten(4).transpose(2, 3)  # b c g n rp

    # 3. The state each chunk starts from.
    if initial_states is None:
        first = x.new_zeros(batch, ngroups, d_state, *groups[1:], headdim)
    else:
        first = initial_states.to(x.dtype).unflatten(1, groups).permute(0, 1, 4, 2, 3)  # b g n r p
    starts, last = linear_scan(survives[..., None, :, None], added.unflatten(-1, (-1, headdim)), first)  # b c g n r p

    # 4. What that state adds to the outputs.
    from_start = cum.exp() if packed is None else cum.exp() * packed.reached_by_start()
    Y_before = (C @ starts.flatten(4)).unflatten(-1, (-1, headdim))  # b c g l r p
    Y = torch.addcmul(Y_inside.transpose(3, 4), Y_before, from_start.mT[..., None])
    y = Y.transpose(2, 3).reshape(batch, -1, nheads, headdim)[:, :seqlen]
    final_states = last.permute(0, 1, 3, 4, 2).reshape(batch, nheads, headdim, d_state)
    return SSDOutput(y if D is None else torch.addcmul(y, x, _per_head(D)), final_states)


def _chunked(m: Float[Tensor, "b l *rest"], chunk_size: int) -> Float[Tensor, "b c s *rest"]:
    """Cut time into chunks; zeros (no step, no input) fill the last one."""
    pad = -m.shape[1] % chunk_size
    if pad:
        m = F.pad(m, (0, 0) * (m.dim() - 2) + (0, pad))
    return m.unflatten(1, (-1, chunk_size))


class _PackedChunks:
    """Which parts of a chunk may see each other when rows hold several sequences, one after the other."""

    def __init__(self, seq_idx: Int[Tensor, "b l"], chunk_size: int) -> None:
        pad = -seq_idx.shape[1] % chunk_size
        seq_idx = torch.cat([seq_idx, seq_idx[:, -1:].expand(-1, pad)], dim=1)
        self.owner = seq_idx.unflatten(1, (-1, chunk_size))  # b c l
        # Whose state a chunk starts with: the caller's initial state belongs to the first sequence.
        self.start = torch.cat([self.owner[:, :1, 0], self.owner[:, :-1, -1]], dim=1)  # b c

    def apart(self) -> Bool[Tensor, "b c l s"]:
        return self.owner[..., :, None] != self.owner[..., None, :]

    def reaches_end(self) -> Bool[Tensor, "b c 1 1 l"]:
        return (self.owner == self.owner[..., -1:])[:, :, None, None]

    def passes_through(self) -> Bool[Tensor, "b c 1 1"]:
        return (self.start == self.owner[..., -1])[:, :, None, None]

    def reached_by_start(self) -> Bool[Tensor, "b c 1 1 l"]:
        return (self.owner == self.start[..., None])[:, :, None, None]


def _per_head(D: Float[Tensor, "..."]) -> Float[Tensor, "h _"]:
    """D is one number a head (h) or one a channel (h p); make both broadcast over (... h p)."""
    return D if D.dim() == 2 else D[:, None]


def ssd_step(
    x: Float[Tensor, "b h p"],
    ssm_state: Float[Tensor, "b h p n"],
    dt: Float[Tensor, "b h"],
    A: Float[Tensor, "h"],
    B: Float[Tensor, "b g n"],
    C: Float[Tensor, "b g n"],
    *,
    D: Float[Tensor, "..."] | None = None,
    dt_bias: Float[Tensor, "h"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Float[Tensor, "b h p"], Float[Tensor, "b h p n"]]:
    """One token of `ssd`: the output and the new state."""
    dtype, groups = accumulate_dtype(x), (B.shape[1], -1)
    with no_autocast(x):
        dt = step_sizes(dt[:, None], dt_bias, dt_softplus, dt_limit)[:, 0]
        x_, B, C = x.to(dtype), B.to(dtype), C.to(dtype)
        state = ssm_state.to(dtype) * torch.exp(dt * A.to(dtype))[..., None, None]
        dx = (x_ * dt[..., None]).unflatten(1, groups)  # b g r p
        state = torch.addcmul(state.unflatten(1, groups), dx[..., None], B[:, :, None, None])
        y = (state.flatten(2, 3) @ C.unsqueeze(-1)).view_as(x_)
        y = y if D is None else torch.addcmul(y, x_, _per_head(D).to(dtype))
    return y.to(x.dtype), state.flatten(1, 2).to(ssm_state.dtype)


def ssd(
    x: Float[Tensor, "b l h p"],
    dt: Float[Tensor, "b l h"],
    A: Float[Tensor, "h"],
    B: Float[Tensor, "b l g n"],
    C: Float[Tensor, "b l g n"],
    *,
    D: Float[Tensor, "..."] | None = None,
    dt_bias: Float[Tensor, "h"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    chunk_size: int = 64,
    initial_states: Float[Tensor, "b h p n"] | None = None,
    seq_idx: Int[Tensor, "b l"] | None = None,
    lengths: Int[Tensor, "b"] | None = None,
    backend: Backend = "auto",
) -> SSDOutput:
    """The Mamba-2 scan over whole sequences.

    Args:
        x: inputs (b l h p).
        dt: step sizes (b l h), before `dt_bias` and `dt_softplus` if those are given.
        A: decay rates (h), negative.
        B, C: input and output maps (b l g n); h must be a multiple of g.
        D: skip weights (h) or (h p), or None.
        dt_bias: (h), added to dt.
        dt_softplus: take softplus of dt.
        dt_limit: clamp of the final step size.
        chunk_size: tokens a chunk of the torch backend; the result does not depend on it.
        initial_states: (b h p n), or None for zeros.
        seq_idx: which packed sequence each token belongs to (b l); the state starts anew at a change.
        lengths: number of real tokens of each row (b); padding on the right does not touch the state.
        backend: "auto", "naive" or "torch".

    Returns:
        y (b l h p) in the dtype of x, and final_states (b h p n) in fp32 (fp64 for fp64 inputs).
    """
    compute = resolve("ssd", backend, {"naive": ssd_naive, "torch": ssd_torch})
    dtype = accumulate_dtype(x)
    with no_autocast(x):
        y, final_states = compute(
            x.to(dtype),
            step_sizes(dt, dt_bias, dt_softplus, dt_limit, lengths).to(dtype),
            A.to(dtype),
            B.to(dtype),
            C.to(dtype),
            D=None if D is None else D.to(dtype),
            initial_states=initial_states,
            seq_idx=seq_idx,
            chunk_size=chunk_size,
        )
    return SSDOutput(y.to(x.dtype), final_states)
