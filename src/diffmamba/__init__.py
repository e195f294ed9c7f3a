"""Differential Mamba: language models whose mixer subtracts one branch from another (arXiv 2507.06204)."""

from importlib.metadata import version

from .layers import Attention as Attention
from .layers import DiffMamba as DiffMamba
from .layers import DiffMamba2 as DiffMamba2
from .layers import Mamba as Mamba
from .layers import Mamba2 as Mamba2
from .models import DiffMambaConfig as DiffMambaConfig
from .models import DiffMambaForCausalLM as DiffMambaForCausalLM
from .models import DiffMambaModel as DiffMambaModel
from .models import build_config as build_config

__version__ = version("diffmamba")
