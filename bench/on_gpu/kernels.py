"""Where the device's time goes in one pass: kernels by kind, and how often something is launched."""

import re
from collections import Counter
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from on_gpu.sections import Told
from on_gpu.stage import Stage, new_texts, read

_KINDS = (
    ("attention", r"attention|attend|flash|fmha|sdpa|flex|tiles"),
    # Compiled kernels carry the names of all that is fused in them.
    ("element-wise", r"triton_(poi|red|per)_"),
    ("copies", r"memcpy|memset|copy|::cat|catarray|gather|scatter|index|embedding|pages"),
    (
        "products",
        r"gemm|gemv|cutlass|cublas|nvjet|xmma|wgmma|splitk|product|contest|_linear_pointwise|::(mm|addmm|bmm|linear|matmul)$",
    ),
    ("element-wise", r"elementwise|norm|rotary|gated|gelu|silu|reduce|softmax|sort|topk|triton_"),
    ("element-wise", r"::(mul|add|sub|pow|mean|rsqrt|neg|tanh|cos|sin|where|gt|nonzero|div|sum)_?$"),
)
"""Kinds of kernels and what their names hold; the first that fits counts. What fits none is `other`."""
_LAUNCHES = re.compile(r"cudaLaunchKernel|cuLaunchKernel|cudaMemcpyAsync|cudaMemsetAsync|cudaGraphLaunch")
_SHOWN = 12


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, words in _KINDS if re.search(words, name, re.IGNORECASE)), "other")


def kernels(stage: Stage, told: Told) -> None:
    """One pass of each size, taken apart."""
    engine, draw = stage.engine(), np.random.default_rng(5)
    on_gpu = stage.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    for total in stage.sizes.profiled:
        texts = new_texts(total, stage.sizes.max_tokens, draw)
        for _ in range(2):
            read(engine, texts)
        stage.settle()
        with profile(activities=activities, acc_events=True) as taken:
            wall_s = stage.seconds(lambda: read(engine, texts))  # noqa: B023
        found = _apart(taken.key_averages(), on_gpu=on_gpu) | {"wall_ms": round(1000 * wall_s, 3)}
        told.figures(**{f"{total} tokens": found})
        ms = ", ".join(f"{kind} {spent} ms" for kind, spent in found["ms"].items())
        told.say(f"{total} tokens: {ms}; {found['kernels']} kernels in {found['launches']} launches")


def _apart(events: Any, *, on_gpu: bool) -> dict[str, Any]:
    """The time of each kind, the number of kernels and launches, and the kernels that take longest.

    On a CPU operators stand for kernels.
    """
    ms: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    kernels = launches = 0
    for event in events:
        there = event.device_type.name == "CUDA"
        if there == on_gpu and (us := event.self_device_time_total if on_gpu else event.self_cpu_time_total) > 0:
            ms[kind_of(event.key)] += us / 1000
            longest[event.key[:100]] += us / 1000
            kernels += event.count
        if not there and _LAUNCHES.search(event.key):
            launches += event.count
    return {
        "ms": {kind: round(spent, 3) for kind, spent in ms.most_common()},
        "kernels": kernels,
        "launches": launches if on_gpu else kernels,
        "longest_ms": {name: round(spent, 3) for name, spent in longest.most_common(_SHOWN)},
    }
