"""GPU time of the SSD scan, of a mixer and of a training step, by kernel; and of mamba_ssm's scan, if it is there.

    python benchmarks/gpu.py

Times are sums over all kernels of a call, by PyTorch's profiler: the mean of five calls after three that warm up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from diffmamba import DiffMambaForCausalLM, Mamba2, build_config
from diffmamba.ops import ssd

CALLS = 5


def gpu_time(name: str, call: Callable[[], object]) -> None:
    """Print the GPU time of a call, its peak memory, and its five longest kernels."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    kernels = sorted(((e.self_device_time_total, e.key) for e in profiled.key_averages()), reverse=True)
    peak = torch.cuda.max_memory_allocated() / 2**20
    print(f"{name:44} {sum(time for time, _ in kernels) / CALLS / 1000:8.3f} ms  peak {peak:8.0f} MiB")
    for time, key in kernels[:5]:
        print(f"    {key[:60]:60} {time / CALLS / 1000:8.3f} ms")


def scan(batch: int, seqlen: int, nheads: int, headdim: int, ngroups: int, d_state: int) -> None:
    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    x, dt = randn(batch, seqlen, nheads, headdim), randn(batch, seqlen, nheads)
    B, C = randn(batch, seqlen, ngroups, d_state), randn(batch, seqlen, ngroups, d_state)
    A = (-torch.rand(nheads, device="cuda") * 4 - 0.5).requires_grad_()
    D, bias = (torch.randn(nheads, device="cuda", requires_grad=True) for _ in range(2))
    leaves, dy = [x, dt, B, C, A, D, bias], torch.randn_like(x)

    def ours() -> torch.Tensor:
        return ssd(x, dt, A, B, C, D=D, dt_bias=bias, dt_softplus=True).y

    runs = {"ours": ours}
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as peer

        runs["mamba_ssm"] = lambda: peer(x, dt, A, B, C, chunk_size=256, D=D, dt_bias=bias, dt_softplus=True)
    except ImportError:
        print("mamba_ssm is not installed")
    for name, run in runs.items():
        with torch.no_grad():
            gpu_time(f"scan {tuple(x.shape)} g{ngroups} forward, {name}", run)
        gpu_time(
            f"scan {tuple(x.shape)} g{ngroups} both, {name}", lambda run=run: torch.autograd.grad(run(), leaves, dy)
        )


def mixer(name: str, **options: object) -> None:
    layer = Mamba2(1024, 128, layer_idx=3, device=torch.device("cuda"), dtype=torch.bfloat16, **options)  # type: ignore
    u = torch.randn(8, 2048, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    leaves, dy = [u, *layer.parameters()], torch.randn_like(u)
    with torch.no_grad():
        gpu_time(f"mixer 8 x 2048, {name}, forward", lambda: layer(u))
    gpu_time(f"mixer 8 x 2048, {name}, both", lambda: torch.autograd.grad(layer(u)[0], leaves, dy))


def training_step(architecture: str) -> None:
    model = DiffMambaForCausalLM(build_config("370m", architecture)).cuda()
    tokens = torch.randint(50_000, (4, 1024), device="cuda")

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        model.zero_grad()

    gpu_time(f"370m 4 x 1024, {architecture}", step)


def main() -> None:
    print(torch.cuda.get_device_name(), torch.__version__)
    product = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(200):  # up to its full clock
        product @ product
    scan(8, 2048, 32, 64, 2, 128)
    scan(8, 2048, 64, 32, 2, 128)
    mixer("vanilla")
    mixer("differential", branches=2)
    mixer("differential, token, no N", branches=2, lambda_policy="token", post_norm=False)
    for architecture in ("mamba2", "diff_mamba2"):
        training_step(architecture)


if __name__ == "__main__":
    main()
