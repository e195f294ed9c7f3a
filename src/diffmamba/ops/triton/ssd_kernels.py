"""Kernels of the SSD scan (arXiv 2405.21060, section 6), forward and backward.

Letters: Q tokens a chunk, c chunks, P headdim and N state as padded to powers of two, R heads that one program takes in
turn. `cum` is log2 of the decay from the start of a chunk up to and with a token. S0 is the state that a chunk starts
from, dS1 the gradient of the state that it ends with. Products take operands in the dtype of x and add up in fp32.

Per head and chunk, with M[l, s] = 2^(cum[l] - cum[s]) for s <= l and X = dt x:

    Y  = (C B^T * M) X + 2^cum C S0^T               S1  = 2^cum[Q-1] S0 + (2^(cum[Q-1] - cum) X)^T B
    dX = (C B^T * M)^T dY + 2^(cum[Q-1] - cum) B dS1^T    dS0 = 2^cum[Q-1] dS1 + (2^cum dY)^T C
    dC = (dY X^T * M) B + 2^cum dY S0               dB  = (dY X^T * M)^T C + 2^(cum[Q-1] - cum) X dS1

The states forward and the gradients of states backward are one recurrence, run in two directions.
"""

import triton
import triton.language as tl


@triton.jit
def _log1p(u):
    """Exact for small u, where log(1 + u) is not."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def _tile(ptr, b, t, h, stride_b, stride_l, stride_h):
    """Where the tile of a row, a first token and a head begins: 64 bits, so that those inside the tile need but 32."""
    return ptr + (b.to(tl.int64) * stride_b + t.to(tl.int64) * stride_l + h * stride_h)


@triton.jit
def steps_kernel(
    dt_ptr, bias_ptr, A_ptr, lengths_ptr, step_ptr, cum_ptr,
    seqlen, nheads, dt_min, dt_max, stride_b, stride_l,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_LENGTHS: tl.constexpr, Q: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """Final step sizes and `cum`, both (b h c*Q) in fp32."""
    c, hblock, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    t, h = c * Q + tl.arange(0, Q), hblock * H + tl.arange(0, H)
    inside = (t < seqlen)[:, None] & (h < nheads)[None, :]
    dt = tl.load(dt_ptr + b * stride_b + t[:, None] * stride_l + h[None, :], inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias_ptr + h, h < nheads, 0.0).to(tl.float32)[None, :]
    if SOFTPLUS:
        dt = tl.maximum(dt, 0.0) + _log1p(tl.exp(-tl.abs(dt)))
    dt = tl.minimum(tl.maximum(dt, dt_min), dt_max)
    if HAS_LENGTHS:
        inside = inside & (t < tl.load(lengths_ptr + b))[:, None]
    dt = tl.where(inside, dt, 0.0)
    A = tl.load(A_ptr + h, h < nheads, 0.0)
    at = (b * nheads + h)[None, :] * (tl.num_programs(0) * Q) + t[:, None]
    tl.store(step_ptr + at, dt, (h < nheads)[None, :])
    tl.store(cum_ptr + at, tl.cumsum(dt * (A * 1.4426950408889634)[None, :], 0), (h < nheads)[None, :])


@triton.jit
def _reach(seq_ptr, b, c, seqlen, t, PACKED: tl.constexpr, Q: tl.constexpr):
    """Which tokens belong to the sequence that the chunk starts in, and which to the one that it ends in."""
    if PACKED:
        seq = tl.load(seq_ptr + b * seqlen + t, t < seqlen, -1)
        first = tl.load(seq_ptr + b * seqlen + tl.maximum(c * Q - 1, 0))
        last = tl.load(seq_ptr + b * seqlen + tl.minimum(c * Q + Q, seqlen) - 1)
        return seq, seq == first, seq == last, first == last
    return t * 0, t >= 0, t >= 0, c >= 0


@triton.jit
def states_kernel(
    v_ptr, k_ptr, step_ptr, cum_ptr, seq_ptr, carry_ptr, states_ptr, end_ptr,
    seqlen, nheads, heads_a_group, nchunks, v_b, v_l, v_h, k_b, k_l, k_g,
    REVERSE: tl.constexpr, HAS_CARRY: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    headdim: tl.constexpr, d_state: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """S0 of every chunk and the final state; with REVERSE (v = dy, k = C) dS1 of every chunk and dS0 of the first.

    A program has a block of (headdim, d_state) of one head, and goes through the chunks in turn.
    """
    h, b = tl.program_id(1), tl.program_id(2)
    nblocks = tl.cdiv(d_state, N)
    p, n = tl.program_id(0) // nblocks * P + tl.arange(0, P), tl.program_id(0) % nblocks * N + tl.arange(0, N)
    pn, pn_mask = p[:, None] * d_state + n[None, :], (p < headdim)[:, None] & (n < d_state)[None, :]
    pn = p[:, None] * d_state + n[None, :]
    state = tl.zeros((P, N), tl.float32)
    if HAS_CARRY:
        state += tl.load(carry_ptr + (b * nheads + h) * headdim * d_state + pn, pn_mask, 0.0).to(tl.float32)
    v_ptr = _tile(v_ptr, b, b * 0, h, v_b, v_l, v_h)
    k_ptr = _tile(k_ptr, b, b * 0, h // heads_a_group, k_b, k_l, k_g)
    row = (b * nheads + h) * nchunks * Q
    for i in range(nchunks):
        c = nchunks - 1 - i if REVERSE else i
        t = c * Q + tl.arange(0, Q)
        at = ((b * nchunks + c).to(tl.int64) * nheads + h) * headdim * d_state
        tl.store(states_ptr + at + pn, state.to(states_ptr.dtype.element_ty), pn_mask)
        v = tl.load(v_ptr + t[:, None] * v_l + p[None, :], (t < seqlen)[:, None] & (p < headdim)[None, :], 0.0)
        k = tl.load(k_ptr + t[:, None] * k_l + n[None, :], (t < seqlen)[:, None] & (n < d_state)[None, :], 0.0)
        cum = tl.load(cum_ptr + row + t)
        end = tl.load(cum_ptr + row + c * Q + Q - 1)
        _, from_start, to_end, across = _reach(seq_ptr, b, c, seqlen, t, PACKED, Q)
        if REVERSE:
            weight = tl.where(from_start, tl.exp2(cum), 0.0)
        else:
            weight = tl.where(to_end, tl.exp2(end - cum), 0.0) * tl.load(step_ptr + row + t)
        weighted = (v.to(tl.float32) * weight[:, None]).to(v.dtype)
        state = state * tl.where(across, tl.exp2(end), 0.0)
        state += tl.dot(tl.trans(weighted), k, input_precision=PRECISION)
    tl.store(end_ptr + (b * nheads + h) * headdim * d_state + pn, state, pn_mask)


@triton.jit
def _decays(cum, seq, t, PACKED: tl.constexpr, Q: tl.constexpr):
    """M, masked before the exponential."""
    causal = t[:, None] >= t[None, :]
    if PACKED:
        causal = causal & (seq[:, None] == seq[None, :])
    return tl.exp2(tl.where(causal, cum[:, None] - cum[None, :], float("-inf")))


@triton.jit
def outputs_kernel(
    x_ptr, B_ptr, C_ptr, step_ptr, cum_ptr, seq_ptr, states_ptr, D_ptr, y_ptr,
    seqlen, nheads, heads_a_group, nchunks, x_b, x_l, x_h, B_b, B_l, B_g, C_b, C_l, C_g,
    HAS_D: tl.constexpr, D_HEADDIM: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    headdim: tl.constexpr, d_state: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Y + D x of one chunk, for R heads of a group, which share C B^T."""
    c, b = tl.program_id(0), tl.program_id(2)
    first_head = tl.program_id(1) * R
    g = first_head // heads_a_group
    q = tl.arange(0, Q)
    t, p, n = c * Q + q, tl.arange(0, P), tl.arange(0, N)
    tn_mask = (t < seqlen)[:, None] & (n < d_state)[None, :]
    tp_mask = (t < seqlen)[:, None] & (p < headdim)[None, :]
    pn, pn_mask = p[:, None] * d_state + n[None, :], (p < headdim)[:, None] & (n < d_state)[None, :]
    B = tl.load(_tile(B_ptr, b, c * Q, g, B_b, B_l, B_g) + q[:, None] * B_l + n[None, :], tn_mask, 0.0)
    C = tl.load(_tile(C_ptr, b, c * Q, g, C_b, C_l, C_g) + q[:, None] * C_l + n[None, :], tn_mask, 0.0)
    products = tl.dot(C, tl.trans(B), input_precision=PRECISION)
    seq, from_start, _, _ = _reach(seq_ptr, b, c, seqlen, t, PACKED, Q)
    for i in range(R):
        h = first_head + i
        row = (b * nheads + h) * nchunks * Q
        cum, step = tl.load(cum_ptr + row + t), tl.load(step_ptr + row + t)
        x = tl.load(_tile(x_ptr, b, c * Q, h, x_b, x_l, x_h) + q[:, None] * x_l + p[None, :], tp_mask, 0.0)
        at = ((b * nchunks + c).to(tl.int64) * nheads + h) * headdim * d_state
        state = tl.load(states_ptr + at + pn, pn_mask, 0.0)
        y = tl.dot(C, tl.trans(state), input_precision=PRECISION)
        y *= tl.where(from_start, tl.exp2(cum), 0.0)[:, None]
        scores = products * _decays(cum, seq, t, PACKED, Q) * step[None, :]
        y = tl.dot(scores.to(x.dtype), x, acc=y, input_precision=PRECISION)
        if HAS_D:
            if D_HEADDIM:
                y += x.to(tl.float32) * tl.load(D_ptr + h * headdim + p, p < headdim, 0.0).to(tl.float32)[None, :]
            else:
                y += x.to(tl.float32) * tl.load(D_ptr + h).to(tl.float32)
        to = ((b * seqlen + c * Q).to(tl.int64) * nheads + h) * headdim
        tl.store(y_ptr + to + q[:, None] * (nheads * headdim) + p[None, :], y.to(y_ptr.dtype.element_ty), tp_mask)


@triton.jit
def grads_kernel(
    x_ptr, dt_ptr, bias_ptr, A_ptr, B_ptr, C_ptr, D_ptr, dy_ptr, step_ptr, cum_ptr, seq_ptr, lengths_ptr,
    states_ptr, dstates_ptr, dx_ptr, ddt_ptr, dA_ptr, dproducts_ptr, dD_ptr,
    seqlen, nheads, heads_a_group, nchunks, dt_min, dt_max,
    x_b, x_l, x_h, B_b, B_l, B_g, C_b, C_l, C_g, dt_b, dt_l, dy_b, dy_l, dy_h,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_LENGTHS: tl.constexpr, HAS_D: tl.constexpr,
    D_HEADDIM: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    headdim: tl.constexpr, d_state: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Gradients of x, dt, A and D in one chunk, and that of C B^T, summed over the R heads of a program.

    Of the decays: each enters Y where it stands in M, so that with T = dY X^T * C B^T * M the gradient of cum is the
    sums of T over its rows less those over its columns, and the like for what comes from S0 and goes to S1.
    """
    c, block, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_head = block * R
    g = first_head // heads_a_group
    q = tl.arange(0, Q)
    t, p, n = c * Q + q, tl.arange(0, P), tl.arange(0, N)
    tn_mask = (t < seqlen)[:, None] & (n < d_state)[None, :]
    tp_mask = (t < seqlen)[:, None] & (p < headdim)[None, :]
    pn, pn_mask = p[:, None] * d_state + n[None, :], (p < headdim)[:, None] & (n < d_state)[None, :]
    B = tl.load(_tile(B_ptr, b, c * Q, g, B_b, B_l, B_g) + q[:, None] * B_l + n[None, :], tn_mask, 0.0)
    C = tl.load(_tile(C_ptr, b, c * Q, g, C_b, C_l, C_g) + q[:, None] * C_l + n[None, :], tn_mask, 0.0)
    products = tl.dot(C, tl.trans(B), input_precision=PRECISION)
    seq, from_start, to_end, across = _reach(seq_ptr, b, c, seqlen, t, PACKED, Q)
    dproducts = tl.zeros((Q, Q), tl.float32)
    for i in range(R):
        h = first_head + i
        row = (b * nheads + h) * nchunks * Q
        cum, step = tl.load(cum_ptr + row + t), tl.load(step_ptr + row + t)
        end = tl.load(cum_ptr + row + c * Q + Q - 1)
        x = tl.load(_tile(x_ptr, b, c * Q, h, x_b, x_l, x_h) + q[:, None] * x_l + p[None, :], tp_mask, 0.0)
        dy = tl.load(_tile(dy_ptr, b, c * Q, h, dy_b, dy_l, dy_h) + q[:, None] * dy_l + p[None, :], tp_mask, 0.0)
        at = ((b * nchunks + c).to(tl.int64) * nheads + h) * headdim * d_state
        state, dstate = tl.load(states_ptr + at + pn, pn_mask, 0.0), tl.load(dstates_ptr + at + pn, pn_mask, 0.0)
        carried = tl.sum(tl.sum(state.to(tl.float32) * dstate.to(tl.float32), 1), 0)
        x32, dy32 = x.to(tl.float32), dy.to(tl.float32)

        from_S0 = tl.dot(C, tl.trans(state), input_precision=PRECISION)
        change = tl.sum(dy32 * from_S0, 1) * tl.where(from_start, tl.exp2(cum), 0.0)
        dX = tl.dot(B, tl.trans(dstate), input_precision=PRECISION)
        dX *= tl.where(to_end, tl.exp2(end - cum), 0.0)[:, None]
        to_S1 = tl.sum(x32 * dX, 1) * step
        change -= to_S1

        decays = _decays(cum, seq, t, PACKED, Q)
        dscores = tl.dot(dy, tl.trans(x), input_precision=PRECISION) * decays * step[None, :]
        dproducts += dscores
        T = dscores * products
        change += tl.sum(T, 1) - tl.sum(T, 0)
        dX = tl.dot(tl.trans((products * decays).to(x.dtype)), dy, acc=dX, input_precision=PRECISION)

        # A step decays all that comes before it: a cumulative sum from the end, of which the last token has S1's.
        last = tl.sum(to_S1, 0) + tl.where(across, tl.exp2(end), 0.0) * carried
        dlog = tl.sum(change, 0) + last - tl.cumsum(change, 0) + change
        dstep = tl.sum(x32 * dX, 1) + dlog * tl.load(A_ptr + h)
        tl.store(dA_ptr + (b * nchunks + c) * nheads + h, tl.sum(dlog * step, 0))
        raw = tl.load(dt_ptr + b * dt_b + t * dt_l + h, t < seqlen, 0.0).to(tl.float32)
        if HAS_BIAS:
            raw += tl.load(bias_ptr + h).to(tl.float32)
        soft = raw
        if SOFTPLUS:
            soft = tl.maximum(raw, 0.0) + _log1p(tl.exp(-tl.abs(raw)))
            dstep *= tl.sigmoid(raw)
        dstep = tl.where((soft >= dt_min) & (soft <= dt_max), dstep, 0.0)
        if HAS_LENGTHS:
            dstep = tl.where(t < tl.load(lengths_ptr + b), dstep, 0.0)
        tl.store(ddt_ptr + (b * seqlen + t) * nheads + h, dstep, t < seqlen)

        dx = dX * step[:, None]
        if HAS_D:
            if D_HEADDIM:
                dx += dy32 * tl.load(D_ptr + h * headdim + p, p < headdim, 0.0).to(tl.float32)[None, :]
                tl.store(dD_ptr + ((b * nchunks + c) * nheads + h) * headdim + p, tl.sum(x32 * dy32, 0), p < headdim)
            else:
                dx += dy32 * tl.load(D_ptr + h).to(tl.float32)
                tl.store(dD_ptr + (b * nchunks + c) * nheads + h, tl.sum(tl.sum(x32 * dy32, 1), 0))
        to = ((b * seqlen + c * Q).to(tl.int64) * nheads + h) * headdim
        tl.store(dx_ptr + to + q[:, None] * (nheads * headdim) + p[None, :], dx.to(dx_ptr.dtype.element_ty), tp_mask)
    to = ((b * nchunks + c).to(tl.int64) * tl.num_programs(1) + block) * Q * Q
    tl.store(dproducts_ptr + to + q[:, None] * Q + q[None, :], dproducts.to(dproducts_ptr.dtype.element_ty))


@triton.jit
def maps_kernel(
    v_ptr, other_ptr, step_ptr, cum_ptr, seq_ptr, states_ptr, dproducts_ptr, out_ptr,
    seqlen, nheads, heads_a_group, nchunks, nparts, v_b, v_l, v_h, other_b, other_l, other_g,
    OF_C: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    headdim: tl.constexpr, d_state: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """dC of one chunk and group (v = dy, other = B, states = S0), or dB (v = x, other = C, states = dS1)."""
    c, g, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q = tl.arange(0, Q)
    t, p, n = c * Q + q, tl.arange(0, P), tl.arange(0, N)
    tn_mask = (t < seqlen)[:, None] & (n < d_state)[None, :]
    tp_mask = (t < seqlen)[:, None] & (p < headdim)[None, :]
    pn, pn_mask = p[:, None] * d_state + n[None, :], (p < headdim)[:, None] & (n < d_state)[None, :]
    _, from_start, to_end, _ = _reach(seq_ptr, b, c, seqlen, t, PACKED, Q)
    out = tl.zeros((Q, N), tl.float32)
    for i in range(heads_a_group):
        h = g * heads_a_group + i
        row = (b * nheads + h) * nchunks * Q
        cum = tl.load(cum_ptr + row + t)
        if OF_C:
            weight = tl.where(from_start, tl.exp2(cum), 0.0)
        else:
            end = tl.load(cum_ptr + row + c * Q + Q - 1)
            weight = tl.where(to_end, tl.exp2(end - cum), 0.0) * tl.load(step_ptr + row + t)
        v = tl.load(_tile(v_ptr, b, c * Q, h, v_b, v_l, v_h) + q[:, None] * v_l + p[None, :], tp_mask, 0.0)
        at = ((b * nchunks + c).to(tl.int64) * nheads + h) * headdim * d_state
        state = tl.load(states_ptr + at + pn, pn_mask, 0.0)
        out = tl.dot((v.to(tl.float32) * weight[:, None]).to(v.dtype), state, acc=out, input_precision=PRECISION)
    dproducts = tl.zeros((Q, Q), tl.float32)
    for i in range(nparts):
        at = ((b * nchunks + c).to(tl.int64) * tl.num_programs(1) * nparts + g * nparts + i) * Q * Q
        dproducts += tl.load(dproducts_ptr + at + q[:, None] * Q + q[None, :])
    other_ptr = _tile(other_ptr, b, c * Q, g, other_b, other_l, other_g)
    other = tl.load(other_ptr + q[:, None] * other_l + n[None, :], tn_mask, 0.0)
    if not OF_C:
        dproducts = tl.trans(dproducts)
    out = tl.dot(dproducts.to(other.dtype), other, acc=out, input_precision=PRECISION)
    ngroups = tl.num_programs(1)
    out_ptr += ((b * seqlen + c * Q).to(tl.int64) * ngroups + g) * d_state
    tl.store(out_ptr + q[:, None] * (ngroups * d_state) + n[None, :], out.to(out_ptr.dtype.element_ty), tn_mask)
