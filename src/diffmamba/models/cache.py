"""A mixer's state in and out of transformers' own cache, whose size does not grow with the number of tokens."""

from __future__ import annotations

import torch
from transformers import Cache

from ..layers import MixerState


def read_state(cache: Cache, layer_idx: int) -> MixerState | None:
    """The state that `write_state` left, or None before the first token."""
    layer = cache.layers[layer_idx]
    if not layer.has_previous_state[0]:
        return None
    states = MixerState(layer.conv_states[0], layer.recurrent_states[0])
    # The buffers are written over after this call, and a backward pass may still need what they hold now.
    return MixerState(*(state.clone() for state in states)) if torch.is_grad_enabled() else states


def write_state(cache: Cache, layer_idx: int, state: MixerState) -> None:
    """Copy a state into the cache's buffers, whose addresses stay the same."""
    # The cache appends conv inputs and keeps the last d_conv of them: a whole window replaces what was there.
    cache.update_conv_state(state.conv_state, layer_idx)
    cache.update_recurrent_state(state.ssm_state, layer_idx)


def state_bytes(cache: Cache) -> int:
    """Bytes that the cache holds, over all layers and sequences."""
    states = [
        state
        for layer in cache.layers
        for state in (*layer.conv_states.values(), *layer.recurrent_states.values())
        if state is not None
    ]
    return sum(state.numel() * state.element_size() for state in states)
