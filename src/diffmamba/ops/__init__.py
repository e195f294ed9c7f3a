"""Pure functions of tensors. Each op has `naive`, which reads like its equation, and faster backends behind it."""

from ._common import accumulate_dtype as accumulate_dtype
from ._common import autocast_dtype as autocast_dtype
from ._common import chosen_backend as chosen_backend
from ._common import default_backend as default_backend
from ._common import has_triton as has_triton
from .attention import attention as attention
from .attention import rotary as rotary
from .conv import ConvOutput as ConvOutput
from .conv import causal_conv1d as causal_conv1d
from .conv import causal_conv1d_step as causal_conv1d_step
from .differential import branch_signs as branch_signs
from .differential import differential_naive as differential_naive
from .differential import post_norm as post_norm
from .linear_scan import linear_scan as linear_scan
from .norm import expand_heads as expand_heads
from .norm import gated_rms_norm as gated_rms_norm
from .norm import rms_norm as rms_norm
from .parts import split as split
from .selective_scan import SelectiveScanOutput as SelectiveScanOutput
from .selective_scan import selective_scan as selective_scan
from .selective_scan import selective_scan_step as selective_scan_step
from .ssd import SSDOutput as SSDOutput
from .ssd import ssd as ssd
from .ssd import ssd_step as ssd_step
from .visibility import View as View
from .visibility import look as look
