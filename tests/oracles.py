"""transformers' own mixers in fp64, and two of them as one differential mixer."""

import copy
import math
from contextlib import contextmanager

import torch
from torch import nn
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2


class _DoubleTorch:
    """torch, with float64 under the name of float32: transformers' mixers cast to fp32 inside."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


@contextmanager
def in_double(monkeypatch):
    to_float = torch.Tensor.float
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float(x))
        for module in (modeling_mamba, modeling_mamba2):
            patch.setattr(module, "torch", _DoubleTorch())
        yield


def mamba2_oracle(d_model, d_state, headdim, expand=2, d_inner=None, ngroups=1, **options):
    """transformers' Mamba-2 mixer in fp64; `d_inner` for widths that are no multiple of d_model."""
    d_inner = expand * d_model if d_inner is None else d_inner
    config = Mamba2Config(
        hidden_size=d_model, state_size=d_state, head_dim=headdim, num_heads=d_inner // headdim,
        expand=d_inner // d_model, n_groups=ngroups, chunk_size=16, num_hidden_layers=1, **options,
    )  # fmt: skip
    return modeling_mamba2.Mamba2Mixer(config, layer_idx=0).double()


def mamba_oracle(d_model, d_state, expand=2, dt_rank="auto"):
    config = MambaConfig(
        hidden_size=d_model, state_size=d_state, expand=expand, intermediate_size=expand * d_model,
        time_step_rank=dt_rank, num_hidden_layers=1,
    )  # fmt: skip
    return modeling_mamba.MambaMixer(config, layer_idx=0).double()


def _halves(tensor, sizes, dim=0):
    """Cut into parts, and every part into two halves: ([first halves], [second halves])."""
    parts = [part.chunk(2, dim) for part in tensor.split(sizes, dim)]
    return torch.cat([a for a, _ in parts], dim), torch.cat([b for _, b in parts], dim)


def split_mamba2(mixer, values):
    """Tensors of a two-branch Mamba2, by parameter name -> those of the two mixers that it stands for."""
    d, bc, h = mixer.d_inner, mixer.ngroups * mixer.d_state, mixer.nheads
    pairs = {
        "in_proj.weight": _halves(values["in_proj.weight"], [d, d, bc, bc, h]),
        "conv1d.weight": _halves(values["conv1d.weight"], [d, bc, bc]),
        "out_proj.weight": values["out_proj.weight"].chunk(2, 1),
    }
    if "conv1d.bias" in values:
        pairs["conv1d.bias"] = _halves(values["conv1d.bias"], [d, bc, bc])
    pairs |= {name: values[name].chunk(2) for name in ("dt_bias", "A_log", "D", "norm.weight")}
    return tuple({name: pair[branch] for name, pair in pairs.items()} for branch in range(2))


def split_mamba(mixer, values):
    """The same of a two-branch Mamba."""
    d = mixer.d_inner
    pairs = {
        "in_proj.weight": _halves(values["in_proj.weight"], [d, d]),
        "out_proj.weight": values["out_proj.weight"].chunk(2, 1),
    }
    names = ("conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D")
    pairs |= {name: values[name].chunk(2) for name in names}
    return tuple({name: pair[branch] for name, pair in pairs.items()} for branch in range(2))


class ReferenceBlock(nn.Module):
    """A differential layer of the paper's code, from two of transformers' mixers; parameters are named as there."""

    def __init__(self, config, layer_idx):
        super().__init__()
        half = copy.deepcopy(config)
        half.expand, half.head_dim = 1, config.head_dim // 2
        self.norm = modeling_mamba2.Mamba2RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer_1 = modeling_mamba2.Mamba2Mixer(half, layer_idx=layer_idx)
        self.mixer_2 = modeling_mamba2.Mamba2Mixer(half, layer_idx=layer_idx)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_idx)
        self.lambda_q1 = nn.Parameter(torch.randn(config.hidden_size))
        self.subln = modeling_mamba2.Mamba2RMSNorm(config.hidden_size, eps=1e-5)

    def forward(self, hidden_states, **_):
        u = self.norm(hidden_states)
        lam = torch.sigmoid(self.lambda_q1.sum()) + self.lambda_init
        return hidden_states + self.subln(self.mixer_1(u) - lam * self.mixer_2(u)) * (1 - self.lambda_init)


def reference_model(config, differential):
    """The paper's language model: transformers' Mamba-2 with these layers differential."""
    model = Mamba2ForCausalLM(config)
    for layer in differential:
        model.backbone.layers[layer] = ReferenceBlock(config, layer)
    return model.eval()
