"""Checkpoints of other libraries, there and back, and pretrained Mamba-2 made differential."""

from .run import ConvertConfig as ConvertConfig
from .run import convert as convert
from .run import load_pretrained as load_pretrained
from .run import save_pretrained as save_pretrained
