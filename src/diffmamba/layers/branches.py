"""What every mixer does with its branches: sizes, the input check, the state, and the recombination."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import check_choice
from ..ops import branch_signs, post_norm
from .lambdas import Lambda, LambdaPolicy, lambda_init_at
from .norm import RMSNorm

Site = Literal["block", "ssm"]
Matching = Literal["paper", "compact", "split"]


class MixerState(NamedTuple):
    """All that a mixer remembers of the tokens before; its size does not grow with their number."""

    conv_state: Float[Tensor, "b i w"]
    ssm_state: Float[Tensor, "b ..."]  # (b h p n) in Mamba-2, (b i n) in Mamba-1


class Differential(nn.Module):
    """Recombines two branches: their scan outputs at site `ssm`, their outputs at site `block`.

    Args:
        site: `block`, the difference after each branch's gate, norm and out_proj (Diff-Mamba); or `ssm`, the
            difference of two scans that share conv, gate, norm and out_proj (Diff-S6).
        lambda_policy: see `Lambda`.
        lambda_init: overrides the constant of the layer's depth.
        post_norm: follow the difference by N, an RMS norm, and the factor (1 - lambda_init).
        layer_idx: 0-based depth of the layer; None counts as 0.
        d_model, d_state, nheads: sizes for lambda; nheads of one branch.
        width: of the difference.
    """

    def __init__(
        self, site: Site, lambda_policy: LambdaPolicy, lambda_init: float | None, post_norm: bool,
        *, layer_idx: int | None, d_model: int, d_state: int, nheads: int, width: int,
        device: torch.device | None, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.site = site
        self.lambda_init = lambda_init_at(layer_idx or 0) if lambda_init is None else lambda_init
        if not 0 < self.lambda_init < 1:
            raise ValueError(f"`lambda_init` must be between 0 and 1; got {self.lambda_init}")
        self.lam = Lambda(
            lambda_policy, self.lambda_init, d_model=d_model, d_state=d_state, nheads=nheads, device=device, dtype=dtype
        )
        self.subln = RMSNorm(width, device=device, dtype=dtype) if post_norm else None

    def signs(self, u: Float[Tensor, "b l d"], channels: int) -> Float[Tensor, "*per i"]:
        """1 for the channels of branch 1, -lambda for those of branch 2: (2 channels), or (b l 2 channels)."""
        return branch_signs(self.lam(u), channels)

    def finish(
        self, y: Float[Tensor, "*batch w"], residual: Float[Tensor, "*batch w"] | None = None
    ) -> Float[Tensor, "*batch w"]:
        """N and (1 - lambda_init) on the difference, if the layer has them, and then the residual's sum."""
        if self.subln is None:
            return y if residual is None else residual + y
        return post_norm(y, own_weight("subln", self.subln, RMSNorm), self.lambda_init, residual)

    def subtract(self, y: Float[Tensor, "b l i"], u: Float[Tensor, "b l d"]) -> Float[Tensor, "b l w"]:
        """Branch 1 minus lambda times branch 2, the two halves of the last axis of y, finished."""
        y1, y2 = (y * self.signs(u, y.shape[-1] // 2).to(y.dtype)).chunk(2, dim=-1)
        return self.finish(y1 + y2)


def check_branches(branches: int, site: str, matching: str) -> None:
    """Raise ValueError unless the three name a structure that exists."""
    if branches not in (1, 2):
        raise ValueError(f"`branches` must be 1 (vanilla) or 2 (differential); got {branches}")
    check_choice("site", site, get_args(Site))
    check_choice("matching", matching, get_args(Matching))


def check_input(u: Tensor, d_model: int) -> None:
    """Raise ValueError unless u is (batch, seqlen, d_model) with at least one row and one token."""
    if u.dim() != 3 or u.shape[-1] != d_model:
        raise ValueError(f"the mixer takes (batch, seqlen, d_model={d_model}); got shape {tuple(u.shape)}")
    if 0 in u.shape:
        raise ValueError(f"batch and seqlen must be at least 1; got shape {tuple(u.shape)}")


def own_weight(name: str, module: nn.Module, kind: type[nn.Module]) -> Tensor:
    """The weight of a map or norm that a mixer applies itself.

    Raises:
        TypeError: an adapter has been wrapped around it, and would be left out without a word.
    """
    if not isinstance(module, kind):
        raise TypeError(
            f"the mixer reads the weight of `{name}` and does not call it: {type(module).__name__} in its place might "
            "be left out. Adapters go on in_proj and out_proj."
        )
    return cast(Tensor, module.weight)


def mark_no_weight_decay(*parameters: nn.Parameter) -> None:
    """Set mamba_ssm's mark, by which optimizers know what not to decay."""
    for parameter in parameters:
        setattr(parameter, "_no_weight_decay", True)  # noqa: B010  # not an attribute that type checkers know
