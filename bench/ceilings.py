"""What the hardware gives, measured in the same run, and what a subject needs of it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from scopewatch.reader.linear import pack_linears
from subjects import Subject


def _best_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def gemm_flops_per_s(config: Any, device: torch.device, repeats: int = 5) -> dict[str, float]:
    """FLOP/s of matrix products, float32 on a CPU, bfloat16 on a GPU, by shape: the reader's own and square ones.

    On a CPU the faster of torch's product and oneDNN's with packed weights.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    d, ff = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    tokens = (1024, 4096) if device.type == "cpu" else (4096, 16_384)
    square = 2048 if device.type == "cpu" else 8192
    shapes = {(m, k, n) for m in tokens for k, n in ((d, ff), (ff, d), (d, heads), (heads, d))} | {(square,) * 3}
    rates = {}
    for m, k, n in sorted(shapes):
        x, weight = (torch.randn(size, dtype=dtype, device=device) for size in ((m, k), (n, k)))
        seconds = _best_s(lambda x=x, weight=weight: functional.linear(x, weight), device, repeats)
        if device.type == "cpu":
            packed = _packed(weight)
            seconds = min(seconds, _best_s(lambda x=x, packed=packed: packed(x), device, repeats))
        rates[f"{m}x{k}x{n}"] = 2 * m * k * n / seconds
    return rates


def _packed(weight: torch.Tensor) -> torch.nn.Module:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    model = torch.nn.Sequential(linear)
    pack_linears(model)
    return model


def copy_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written per second by one large copy."""
    source = torch.ones((1 << 26) if device.type == "cpu" else (1 << 28), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: target.copy_(source), device, 5)


def needed_flops(subject: Subject, tokens: Sequence[int]) -> float:
    """FLOPs that the watched activations of pairs of so many tokens need: no padding, no head, no unwatched feature.

    Per token and layer up to the deepest watched one, with d the residual width, h and g the heads and key-value heads
    of width w, and f the MLP's: 2 d w (h + 2 g) for q, k, v; 2 d w h for the output; 6 d f for the gated MLP; and
    4 h w for each token it sees (scores and values), itself and those before it, in sliding layers at most the window.
    Per token and SAE: 2 d for each watched feature.
    """
    c = subject.config
    heads, kv, width = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    weights = 2 * c.hidden_size * width * (2 * heads + 2 * kv) + 6 * c.hidden_size * c.intermediate_size
    encode = 2 * c.hidden_size * len(subject.watched) * len(subject.saes)
    total = 0
    for n in tokens:
        total += n * (weights * subject.layers_run + encode)
        for kind in c.layer_types[: subject.layers_run]:
            window = min(n, c.sliding_window) if kind == "sliding_attention" else n
            seen = window * (window + 1) // 2 + (n - window) * window
            total += 4 * heads * width * seen
    return float(total)
