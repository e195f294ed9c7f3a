"""A mixer's state in and out of transformers' own cache, whose size does not grow with the number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionLayer

from ..files import replaced_file
from ..layers import MixerState
from .weights import check_finite, check_fit, open_safetensors


class StateLayer(LinearAttentionLayer):
    """transformers' layer for recurrent states, with the operations on the batch that it lacks.

    A state is a sum over all tokens so far and cannot forget one, so `crop` raises. transformers' own `crop`, once
    the past is recorded, shortens the window of the convolution and leaves the state of the scan as it is.
    """

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several continuations of it."""
        self._replace(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        self._replace(lambda state: state[indices.to(state.device)])

    def crop(self, tokens_to_remove: int) -> None:
        """Raise ValueError, unless there is nothing to remove."""
        if tokens_to_remove != 0:
            self._cannot_forget(f"crop({tokens_to_remove})")

    def activate_past_recording(self) -> None:
        """Raise ValueError."""
        self._cannot_forget("activate_past_recording()")

    def _cannot_forget(self, call: str) -> NoReturn:
        raise ValueError(
            f"{call}: the state of a Mamba layer cannot forget tokens. Keep a copy of the cache from before them, with "
            "copy.deepcopy, and go on from the copy."
        )

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        for states in (self.conv_states, self.recurrent_states):
            if states[0] is not None:
                states[0] = change(states[0])


def check_cache(cache: Cache, n_layer: int) -> None:
    """Raise ValueError unless the cache has a place for every layer."""
    if len(cache.layers) != n_layer:
        raise ValueError(
            f"`cache_params` has {len(cache.layers)} layers, the model {n_layer}; make one with "
            "DynamicCache(config=model.config)"
        )


def read_state(cache: Cache, layer_idx: int) -> MixerState | None:
    """The state that `write_state` left, or None before the first token."""
    layer = cache.layers[layer_idx]
    if not layer.has_previous_state[0]:
        return None
    states = MixerState(layer.conv_states[0], layer.recurrent_states[0])
    # The buffers are written over after this call, and a backward pass may still need what they hold now.
    return MixerState(*(state.clone() for state in states)) if torch.is_grad_enabled() else states


def write_state(cache: Cache, layer_idx: int, state: MixerState, dtype: str | None = None) -> None:
    """Copy a state into the cache's buffers, whose addresses stay the same; that of the scan in `dtype`."""
    if dtype is not None:
        state = state._replace(ssm_state=state.ssm_state.to(getattr(torch, dtype)))
    if not isinstance(cache.layers[layer_idx], StateLayer):  # whoever made the cache, `generate` or a user
        cache.layers[layer_idx] = StateLayer()
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


def save_state(cache: Cache, path: Path | str) -> None:
    """Write the state after some tokens to a safetensors file, to go on from it in another process.

    Raises:
        ValueError: the cache has seen no token.
    """
    states = [read_state(cache, layer_idx) for layer_idx in range(len(cache.layers))]
    tensors: dict[str, Tensor] = {}
    for layer_idx, state in enumerate(states):
        if state is not None:
            tensors |= {f"layers.{layer_idx}.{name}": value.contiguous() for name, value in state._asdict().items()}
    if not states or None in states:
        raise ValueError("the cache has seen no token: run the model on at least one first")
    with replaced_file(Path(path)) as aside:
        save_file(tensors, aside)


def load_state(path: Path | str, model: PreTrainedModel) -> Cache:
    """The cache that `save_state` wrote, on the model's device.

    Raises:
        RunError: the file cannot be read, or is not of this model.
    """
    weights = open_safetensors(Path(path))
    batch = next(iter(weights.shapes.values()), (0,))[0]
    cache, empty = DynamicCache(config=model.config), dict[str, Tensor]()
    for layer_idx, layer in enumerate(model.base_model.layers):
        start = layer.mixer.init_state(batch)._asdict()
        empty |= {f"layers.{layer_idx}.{name}": value for name, value in start.items()}
    check_fit(f"the state in {path}", "the model", weights.shapes, {n: tuple(v.shape) for n, v in empty.items()})
    tensors = {name: weights.read(name).to(value) for name, value in empty.items()}
    check_finite(f"the state in {path}", tensors.items())
    for layer_idx in range(len(cache.layers)):
        state = MixerState(*(tensors[f"layers.{layer_idx}.{name}"] for name in MixerState._fields))
        write_state(cache, layer_idx, state, model.config.state_dtype)
    return cache
