"""Modules: parameters and projections around the ops."""

from .branches import MixerState as MixerState
from .init import init_weights as init_weights
from .lambdas import Lambda as Lambda
from .lambdas import lambda_init_at as lambda_init_at
from .mamba import DiffMamba as DiffMamba
from .mamba import Mamba as Mamba
from .mamba2 import DiffMamba2 as DiffMamba2
from .mamba2 import Mamba2 as Mamba2
from .mlp import MLP as MLP
from .norm import RMSNorm as RMSNorm
