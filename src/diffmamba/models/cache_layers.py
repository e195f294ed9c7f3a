"""What a layer keeps between two tokens, in transformers' cache: a state of fixed size, or keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from ..layers import AttentionState


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
            _cannot_forget(f"crop({tokens_to_remove})")

    def activate_past_recording(self) -> None:
        """Raise ValueError."""
        _cannot_forget("activate_past_recording()")

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        for states in (self.conv_states, self.recurrent_states):
            if states[0] is not None:
                states[0] = change(states[0])


class KVLayer(DynamicLayer):
    """transformers' layer for keys and values, with room for tokens to come, and with padding and packed rows.

    `keys` and `values` are views of buffers that grow by a quarter when they are full. transformers' own layer
    copies them whole for every token.

    Args:
        among_states: there are Mamba layers in the cache too, so that it cannot forget tokens.
    """

    keys: Any  # (b h m p), or None before the first token
    values: Any

    def __init__(self, among_states: bool) -> None:
        super().__init__()
        self.among_states = among_states
        self.visible: Tensor | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None

    def read(self, seqlen: int) -> AttentionState | None:
        """The state, with room for `seqlen` tokens; or None before the first token."""
        if not self.is_initialized:
            return None
        if torch.is_grad_enabled():  # a backward pass may need the memory as it is: what follows goes elsewhere
            self.buffers = None
            return AttentionState(self.keys, self.values, self.visible)
        length = self.keys.shape[2] + seqlen
        k, v = (buffer[:, :, :length] for buffer in self._reserve(length))
        return AttentionState(k, v, self.visible, room=seqlen)

    def write(self, state: AttentionState) -> None:
        """Keep a state; after `read` without gradients it is in the buffers already."""
        self.keys, self.values, self.visible = state.k, state.v, state.visible
        self.is_initialized = True
        if self.buffers is None and not torch.is_grad_enabled():
            self._reserve(state.k.shape[2])

    def _reserve(self, length: int) -> tuple[Tensor, Tensor]:
        """Buffers with place for so many tokens."""
        if self.buffers is None or self.buffers[0].shape[2] < length:
            past, capacity = self.keys.shape[2], length + max(64, length // 4)
            k, v = (kept.new_empty(*kept.shape[:2], capacity, kept.shape[3]) for kept in (self.keys, self.values))
            k[:, :, :past], v[:, :, :past] = self.keys, self.values
            self.buffers = k, v
            self.keys, self.values = k[:, :, :past], v[:, :, :past]
        return self.buffers

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for several continuations of it."""
        self._replace(lambda kept: kept.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        self._replace(lambda kept: kept[indices.to(kept.device)])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The same, for beam search."""
        self.batch_select_indices(beam_idx)

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.is_initialized:
            self.keys, self.values, self.buffers = change(self.keys), change(self.values), None
            self.visible = None if self.visible is None else change(self.visible)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -`tokens_to_remove` tokens of every row, padding not counted."""
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        if self.among_states:
            _cannot_forget(f"crop({tokens_to_remove})")
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the number of tokens to remove; got {tokens_to_remove}")
        if self.visible is None:
            self.keys, self.values = self.keys[:, :, :tokens_to_remove], self.values[:, :, :tokens_to_remove]
        else:
            from_the_end = self.visible.flip(1).cumsum(1).flip(1)
            self.visible = self.visible & (from_the_end > -tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = self.visible = self.buffers = None
        self.is_initialized = False


def _cannot_forget(call: str) -> NoReturn:
    raise ValueError(
        f"{call}: the state of a Mamba layer cannot forget tokens. Keep a copy of the cache from before them, with "
        "copy.deepcopy, and go on from the copy."
    )
