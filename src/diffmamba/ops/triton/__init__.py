"""Triton kernels behind the ops; imported only where they run, since Triton is not on every machine."""
