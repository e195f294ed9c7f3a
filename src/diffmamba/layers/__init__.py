"""Modules: parameters and projections around the ops."""

from .attention import Attention as Attention
from .attention import AttentionState as AttentionState
from .branches import Matching as Matching
from .branches import MixerState as MixerState
from .branches import Site as Site
from .init import init_weights as init_weights
from .lambdas import Lambda as Lambda
from .lambdas import LambdaPolicy as LambdaPolicy
from .lambdas import lambda_init_at as lambda_init_at
from .mamba import DiffMamba as DiffMamba
from .mamba import Mamba as Mamba
from .mamba2 import DiffMamba2 as DiffMamba2
from .mamba2 import Mamba2 as Mamba2
from .mlp import MLP as MLP
from .mlp import MLPKind as MLPKind
from .norm import RMSNorm as RMSNorm
