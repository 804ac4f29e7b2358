"""How many kernels a pass launches and how many bytes its element-wise ones move, with and without fused layers.

    python bench/launches.py [--tokens 16384]

Counts operators of torch on tensors that have shapes only, so that it needs neither a GPU nor memory: each operator but
views and allocations is one launch. Attention counts as one, whichever kind runs. `trace` counts any function on any
device, and `kind_of_kernel` says which kind a kernel of a GPU's profile is of.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModel, Gemma2Config, PreTrainedConfig

from scopewatch.reader.families import FAMILIES
from scopewatch.reader.fused.fusing import install

GEMMA_2_2B = Gemma2Config(
    num_hidden_layers=21, layer_types=["sliding_attention", "full_attention"] * 10 + ["sliding_attention"]
)
"""Gemma 2 2B, whose shapes are transformers' defaults, down to layer 20."""
KIND_OF_KERNEL = (
    ("norm", ("norm_kernel",)),
    ("rotary", ("rotary_kernel",)),
    ("gated", ("gated_kernel",)),
    ("attention", ("tiles_kernel", "flex_attention", "flash", "fmha")),
    ("product", ("gemm", "nvjet", "cutlass", "cublas", "splitKreduce")),
    ("copy", ("Memcpy", "Memset", "direct_copy", "CatArray", "index")),
)
"""Kinds, and what stands in the names of their kernels; all others are torch's own, element by element."""
_KIND_OF_OPERATOR = {
    "rms_norm": "norm",
    "add_norm": "norm",
    "norm_add": "norm",
    "norm_add_norm": "norm",
    "rotary": "rotary",
    "gated": "gated",
    "attend": "attention",
    "mm": "product",
    "addmm": "product",
    "bmm": "product",
    "embedding": "copy",
    "cat": "copy",
    "_to_copy": "copy",
    "clone": "copy",
}
_NO_LAUNCH = {"empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view", "detach", "lift_fresh"}
_NOT_MOVED_BY = {"product", "attention"}


@dataclass(frozen=True, slots=True)
class Launch:
    """One operator that computes or copies."""

    operator: str
    kind: str
    moved_bytes: int
    """Size of the tensors that it reads and writes."""


def kind_of_kernel(name: str) -> str:
    """The kind of a kernel, by its name in a profile."""
    return next((kind for kind, parts in KIND_OF_KERNEL if any(part in name for part in parts)), "element by element")


class _Trace(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def __torch_dispatch__(self, func: Any, _types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _NO_LAUNCH:
            # Of a table, as much is read as is written.
            read = out if name == "embedding" else (args, kwargs)
            moved = sum(map(_size, tree_leaves((read, out))))
            self.launches.append(Launch(name, _KIND_OF_OPERATOR.get(name, "element by element"), moved))
        return out


def _size(value: object) -> int:
    """Bytes of a tensor; what is repeated along an axis is there once."""
    if not isinstance(value, torch.Tensor):
        return 0
    sizes = (size for size, stride in zip(value.shape, value.stride(), strict=True) if stride)
    count = value.element_size()
    for size in sizes:
        count *= size
    return count


def trace(run: Callable[[], object]) -> list[Launch]:
    """What a function launches, in order."""
    with torch.no_grad(), _Trace() as mode:
        run()
    return mode.launches


def model_of(config: PreTrainedConfig, *, fused: bool, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A text model that has shapes only.

    Args:
        config: Its configuration, with as many layers as run.
        fused: Whether its layers run in few kernels.
        dtype: Its type.
    """
    AttentionInterface.register("counted", _attend)
    auto: Any = AutoModel
    with torch.device("meta"):
        model = auto.from_config(config, attn_implementation="counted", dtype=dtype).eval().requires_grad_(False)
        if fused:
            install(model, FAMILIES[config.model_type])
    return model


def pass_of(model: Any, *, tokens: int) -> list[Launch]:
    """What one pass over a row of so many tokens launches."""
    ids, positions = (torch.zeros(1, tokens, dtype=torch.int64, device="meta") for _ in range(2))
    return trace(lambda: model(input_ids=ids, position_ids=positions, use_cache=False))


def _attend(
    _module: object, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: None, **_: object
) -> tuple[torch.Tensor, None]:
    return torch.ops.scopewatch_bench.attend(query, key, value), None


_LIBRARY = torch.library.Library("scopewatch_bench", "DEF")
_LIBRARY.define("attend(Tensor query, Tensor key, Tensor value) -> Tensor")
_LIBRARY.impl("attend", lambda query, *_: torch.empty_like(query.transpose(1, 2)).contiguous(), "Meta")


def moved_bytes(launches: Iterable[Launch]) -> int:
    """Size of what all but products and attention read and write."""
    return sum(launch.moved_bytes for launch in launches if launch.kind not in _NOT_MOVED_BY)


def summary(launches: list[Launch]) -> dict[str, Any]:
    """The number of launches, in all and by kind, and the bytes moved by those that work element by element."""
    return {
        "launches": len(launches),
        "moved_GB": round(moved_bytes(launches) / 1e9, 2),
        "by_kind": dict(Counter(launch.kind for launch in launches).most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=16_384)
    tokens = parser.parse_args().tokens
    for way in ("plain", "fused"):
        launches = pass_of(model_of(GEMMA_2_2B, fused=way == "fused"), tokens=tokens)
        print(way, json.dumps(summary(launches)))


if __name__ == "__main__":
    main()
