"""Triton kernels of our own, for GPUs; whoever imports one of its modules needs triton."""
