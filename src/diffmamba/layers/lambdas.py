"""Lambda, the weight of branch 2: five policies that differ in what it depends on and how it can learn."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import check_choice
from .linear import Linear

LambdaPolicy = Literal["paper", "exp", "scalar", "head", "token"]


def lambda_init_at(depth: int) -> float:
    """0.8 - 0.6 exp(-0.3 depth), with the 0-based depth of the layer: 0.2 at the bottom, towards 0.8."""
    return 0.8 - 0.6 * math.exp(-0.3 * depth)


class Lambda(nn.Module):
    """Lambda of each head of branch 2, or one for all of them.

    | policy | lambda                                              | learns                                |
    |--------|-----------------------------------------------------|---------------------------------------|
    | paper  | sigmoid(sum(q1)) + lambda_init, q1 ~ N(0, 1)^d_model | hardly: saturated at about 9 of 10 starts |
    | exp    | exp(q1.k1) - exp(q2.k2) + lambda_init, N(0, 0.1)    | yes                                   |
    | scalar | 2 lambda_init sigmoid(t), t = 0                     | yes, within (0, 2 lambda_init)        |
    | head   | the same, one t a head                              | yes                                   |
    | token  | sigmoid(W u_t + b), one a token and head            | yes: a noise score of each token      |

    All but `paper` start at lambda_init. `paper` is kept for the reference's checkpoints.

    Args:
        policy: one of the above.
        lambda_init: the constant of the layer's depth, see `lambda_init_at`.
        d_model: width of the layer's input (`paper`, `token`).
        d_state: length of the vectors of `exp`.
        nheads: heads of branch 2 (`head`, `token`).
    """

    q1: Tensor  # of each policy only what it learns is there
    k1: Tensor
    q2: Tensor
    k2: Tensor
    t: Tensor

    def __init__(
        self, policy: LambdaPolicy, lambda_init: float, *, d_model: int, d_state: int, nheads: int,
        device: torch.device | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("lambda_policy", policy, get_args(LambdaPolicy))
        self.policy, self.lambda_init = policy, lambda_init
        sizes = {"paper": {"q1": d_model}, "exp": dict.fromkeys(("q1", "k1", "q2", "k2"), d_state)}
        sizes |= {"scalar": {"t": 1}, "head": {"t": nheads}, "token": {}}
        for name, size in sizes[policy].items():
            setattr(self, name, nn.Parameter(torch.empty(size, device=device, dtype=dtype)))
        if policy == "token":
            self.proj = Linear(d_model, nheads, device=device, dtype=dtype)

    def forward(self, u: Float[Tensor, "b l d"]) -> Float[Tensor, "*per h"]:
        """Lambda as (1), (h) or, for `token`, (b l h); at least fp32 but for `token`, which has the dtype of u."""
        if self.policy == "token":
            return torch.sigmoid(self.proj(u))
        dtype = torch.promote_types(u.dtype, torch.float32)
        if self.policy == "paper":
            return (torch.sigmoid(self.q1.to(dtype).sum()) + self.lambda_init).view(1)
        if self.policy == "exp":
            q1, k1, q2, k2 = (q.to(dtype) for q in (self.q1, self.k1, self.q2, self.k2))
            return ((q1 @ k1).exp() - (q2 @ k2).exp() + self.lambda_init).view(1)
        return torch.sigmoid(self.t.to(dtype)) * (2 * self.lambda_init)
