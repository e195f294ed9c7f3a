"""Kernels of the causal depthwise convolution and its SiLU, forward and backward.

A program has T tokens of N channels. W taps; tap k of token t reads the input of token t - W + 1 + k, which before the
start is in the state `past` (b i w), newest last.
"""

import triton
import triton.language as tl


@triton.jit
def _read(
    x_ptr, past_ptr, seq_ptr, b, t, source, i, inside, seqlen, channels, x_b, x_l,
    HAS_PAST: tl.constexpr, PACKED: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """The input of the token `source` as the token t reads it: 0 across the border of packed sequences."""
    here = inside & (source >= 0)[:, None]
    if PACKED:
        own = tl.load(seq_ptr + b * seqlen + t, (t >= 0) & (t < seqlen), -1)
        its = tl.load(seq_ptr + b * seqlen + tl.maximum(source, 0), source < seqlen, -2)
        here = here & (own == its)[:, None]
    x = tl.load(x_ptr + b.to(tl.int64) * x_b + source[:, None] * x_l + i[None, :], here, 0.0).to(tl.float32)
    if HAS_PAST:
        before = inside & (source < 0)[:, None]
        if PACKED:
            before = before & (own == its)[:, None]
        at = (b * channels + i)[None, :] * W + (source + W)[:, None]
        x += tl.load(past_ptr + at, before, 0.0).to(tl.float32)
    return x


@triton.jit
def _tap_sum(
    x_ptr, w_ptr, bias_ptr, past_ptr, seq_ptr, b, t, i, inside, seqlen, channels, x_b, x_l,
    HAS_BIAS: tl.constexpr, HAS_PAST: tl.constexpr, PACKED: tl.constexpr, W: tl.constexpr, T: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """What the SiLU is taken of."""
    y = tl.zeros((T, N), tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + i, i < channels, 0.0).to(tl.float32)[None, :]
    for k in tl.static_range(W):
        x = _read(x_ptr, past_ptr, seq_ptr, b, t, t - W + 1 + k, i, inside, seqlen, channels, x_b, x_l,
                  HAS_PAST, PACKED, W)  # fmt: skip
        y += x * tl.load(w_ptr + i * W + k, i < channels, 0.0).to(tl.float32)[None, :]
    return y


@triton.jit
def conv_kernel(
    x_ptr, w_ptr, bias_ptr, past_ptr, seq_ptr, y_ptr, seqlen, channels, x_b, x_l,
    HAS_BIAS: tl.constexpr, HAS_PAST: tl.constexpr, PACKED: tl.constexpr, SILU: tl.constexpr,
    W: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    b, t = tl.program_id(2), tl.program_id(0) * T + tl.arange(0, T)
    i = tl.program_id(1) * N + tl.arange(0, N)
    inside = (t < seqlen)[:, None] & (i < channels)[None, :]
    y = _tap_sum(x_ptr, w_ptr, bias_ptr, past_ptr, seq_ptr, b, t, i, inside, seqlen, channels, x_b, x_l,
                 HAS_BIAS, HAS_PAST, PACKED, W, T, N)  # fmt: skip
    if SILU:
        y *= tl.sigmoid(y)
    at = (b.to(tl.int64) * seqlen + t[:, None]) * channels + i[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def conv_sum_grads_kernel(
    x_ptr, w_ptr, bias_ptr, past_ptr, seq_ptr, dy_ptr, dsum_ptr, dw_ptr, seqlen, channels, x_b, x_l, dy_b, dy_l,
    HAS_BIAS: tl.constexpr, HAS_PAST: tl.constexpr, PACKED: tl.constexpr, SILU: tl.constexpr,
    W: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradient of the sum before the SiLU, and what these tokens give to the taps and, as tap W, to the bias."""
    b, t = tl.program_id(2), tl.program_id(0) * T + tl.arange(0, T)
    i = tl.program_id(1) * N + tl.arange(0, N)
    inside = (t < seqlen)[:, None] & (i < channels)[None, :]
    dy = tl.load(dy_ptr + b.to(tl.int64) * dy_b + t[:, None] * dy_l + i[None, :], inside, 0.0).to(tl.float32)
    if SILU:
        y = _tap_sum(x_ptr, w_ptr, bias_ptr, past_ptr, seq_ptr, b, t, i, inside, seqlen, channels, x_b, x_l,
                     HAS_BIAS, HAS_PAST, PACKED, W, T, N)  # fmt: skip
        gate = tl.sigmoid(y)
        dy *= gate * (1.0 + y * (1.0 - gate))
    at = (b.to(tl.int64) * seqlen + t[:, None]) * channels + i[None, :]
    tl.store(dsum_ptr + at, dy.to(dsum_ptr.dtype.element_ty), inside)
    part = dw_ptr + (b * tl.num_programs(0) + tl.program_id(0)) * (W + 1) * channels
    for k in tl.static_range(W):
        x = _read(x_ptr, past_ptr, seq_ptr, b, t, t - W + 1 + k, i, inside, seqlen, channels, x_b, x_l,
                  HAS_PAST, PACKED, W)  # fmt: skip
        tl.store(part + k * channels + i, tl.sum(x * dy, 0), i < channels)
    tl.store(part + W * channels + i, tl.sum(dy, 0), i < channels)


@triton.jit
def conv_input_grads_kernel(
    dsum_ptr, w_ptr, seq_ptr, dx_ptr, dpast_ptr, seqlen, channels,
    HAS_PAST: tl.constexpr, PACKED: tl.constexpr, W: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradient of each input, from the tokens that read it; with HAS_PAST the first W are those of the state."""
    b, t = tl.program_id(2), tl.program_id(0) * T + tl.arange(0, T)
    if HAS_PAST:
        t -= W
    i = tl.program_id(1) * N + tl.arange(0, N)
    dx = tl.zeros((T, N), tl.float32)
    for k in tl.static_range(W):
        reader = t + W - 1 - k
        kept = (reader >= 0) & (reader < seqlen)
        if PACKED:
            own = tl.load(seq_ptr + b * seqlen + tl.minimum(tl.maximum(t, 0), seqlen - 1))
            kept = kept & (own == tl.load(seq_ptr + b * seqlen + reader, kept, -1))
        at = (b.to(tl.int64) * seqlen + reader[:, None]) * channels + i[None, :]
        dsum = tl.load(dsum_ptr + at, kept[:, None] & (i < channels)[None, :], 0.0).to(tl.float32)
        dx += dsum * tl.load(w_ptr + i * W + k, i < channels, 0.0).to(tl.float32)[None, :]
    inside = ((t >= 0) & (t < seqlen))[:, None] & (i < channels)[None, :]
    at = (b.to(tl.int64) * seqlen + t[:, None]) * channels + i[None, :]
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), inside)
    if HAS_PAST:
        at = (b * channels + i)[None, :] * W + (t + W)[:, None]
        tl.store(dpast_ptr + at, dx, (t < 0)[:, None] & (i < channels)[None, :])
