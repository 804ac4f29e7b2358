"""Seven families: the engine on the device in every way that it can run, against itself on the CPU in float32.

Readers are of random weights and few layers, with the head sizes, windows and soft caps of the released ones. In
bfloat16 the engine may be no farther from float32 than transformers' own bfloat16 is, all in all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from contenders import Dense, config_for, engine_of, scopewatch, transformers, watched_thresholds
from equality import RULES, Difference, compare
from on_gpu.kinds import KINDS, only_kind
from on_gpu.sections import Section, Told
from on_gpu.stage import Stage, text_of
from scopewatch.engine.build import Engine
from scopewatch.reader.linear import multiplies_bfloat16
from scopewatch.types import TokenIds
from subjects import Subject, random_subject

_WITHIN_S = 150.0
_AS_TRANSFORMERS = 1.5
"""How many times the spread of transformers' own bfloat16 the engine's may be."""
_SLIDING = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A family, the width of its heads, and what else differs from `_sizes`."""

    config: type[PreTrainedConfig]
    head_dim: int
    more: Mapping[str, Any]


SHAPES = {
    "gemma2_256": Shape(Gemma2Config, 256, {"query_pre_attn_scalar": 256, "sliding_window": 64}),
    "gemma2_96": Shape(Gemma2Config, 96, {"num_key_value_heads": 2, "query_pre_attn_scalar": 96, "sliding_window": 64}),
    "gemma3_256": Shape(
        Gemma3TextConfig,
        256,
        {"num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 96, "layer_types": _SLIDING},
    ),
    "llama_64": Shape(LlamaConfig, 64, {}),
    "qwen2_64": Shape(Qwen2Config, 64, {}),
    "qwen3_128": Shape(Qwen3Config, 128, {}),
    "mistral_128": Shape(MistralConfig, 128, {"sliding_window": 80}),
}
_LENGTHS = (1, 2, 7, 63, 64, 65, 127, 128, 129, 255, 300, 513, 700)
_COMMON = (200, (5, 70, 130))
"""The tokens of a common beginning, and those of each text behind it."""
_PLAIN = {"fused": "off", "same_numbers": "off", "graph_tokens": 0, "prefix_cache_bytes": 0}


@dataclass(frozen=True, slots=True)
class Way:
    """A way in which the engine runs.

    Args:
        changes: The settings that differ from the defaults.
        kind: The attention on a GPU; the device's choice if it is empty.
    """

    changes: Mapping[str, object]
    kind: str = "packed_tiles"


WAYS = {
    "as served": Way({}, kind=""),
    "nothing kept": Way({"prefix_cache_bytes": 0}),
    "layers plain": Way({"fused": "off"}),
    "no graphs": Way({"graph_tokens": 0}),
    "all plain": Way(_PLAIN),
    **{f"all plain, {kind}": Way(_PLAIN, kind=kind) for kind in KINDS[1:]},
}
"""On a CPU there is one attention, and neither graphs nor fused layers."""
_OF_A_GPU = [f"all plain, {kind}" for kind in KINDS[1:]]


def family_sections(tiny: bool) -> list[Section]:
    """A section for each family."""
    return [Section(f"families/{name}", _WITHIN_S, partial(_family, name, tiny)) for name in SHAPES]


def _family(name: str, tiny: bool, stage: Stage, told: Told) -> None:
    subject, texts = _subject(name, tiny, stage), _texts(tiny)
    plain = _engine(subject, stage, torch.device("cpu"), "float32", Way(_PLAIN))
    reference = scopewatch(subject, plain, plain.max_batch_tokens)(texts)
    told.figures(fired=round(float(np.mean([(found > 0).mean() for found in reference])), 4))
    on_gpu = stage.device.type == "cuda"
    for dtype in ("float32", "bfloat16") if on_gpu or multiplies_bfloat16() else ("float32",):
        spread = _in_every_way(subject, dtype, (texts, reference), stage, told)
        if dtype == "bfloat16" and on_gpu:
            own = Difference()
            compare(own, reference, transformers(subject, stage.device)(texts), watched_thresholds(subject))
            told.figures(transformers_own_bfloat16=own.figures())
            farther = [way for way, found in spread.items() if found > _AS_TRANSFORMERS * own.spread]
            told.broken([f"bfloat16, {way}: farther from float32 than transformers' own" for way in farther])


def _in_every_way(
    subject: Subject, dtype: str, expected: tuple[list[TokenIds], list[Dense]], stage: Stage, told: Told
) -> dict[str, float]:
    """Compares texts and what is expected of them in every way; the spread in each."""
    texts, reference = expected
    found, figures = {}, {}
    on_gpu = stage.device.type == "cuda"
    for name, way in WAYS.items():
        if not on_gpu and name in _OF_A_GPU:
            continue
        engine = _engine(subject, stage, stage.device, dtype, way)
        reader = engine.identity.reader
        if on_gpu and way.kind and reader.attention != way.kind and name != "as served":
            told.say(f"{dtype}, {name}: {way.kind} is left out on this device, and {reader.attention} runs")
        difference = found[name] = Difference()
        run = scopewatch(subject, engine, engine.max_batch_tokens)
        # Twice, since the second time beginnings are known.
        for _ in range(2):
            compare(difference, reference, run(texts), watched_thresholds(subject))
        told.broken([f"{dtype}, {name}: {rule}" for rule in difference.broken(RULES[dtype])])
        ran = {"attention": reader.attention, "kernels": reader.kernels, "graph_tokens": reader.graph_tokens}
        figures[name] = ran | difference.figures()
    worst = max(found.values(), key=lambda difference: difference.spread)
    told.figures(**{dtype: worst.figures(), f"{dtype}, by way": figures})
    told.say(f"{dtype}: worst {worst.worst:.1e} of the largest, {worst.flips} of {worst.activations} flip")
    return {name: difference.spread for name, difference in found.items()}


def _subject(name: str, tiny: bool, stage: Stage) -> Subject:
    shape = SHAPES[name]
    sizes: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 64 if tiny else 512,
        "intermediate_size": 96 if tiny else 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "head_dim": 16 if tiny else shape.head_dim,
    }
    return random_subject(
        name,
        stage.scratch / f"{name}-{'tiny' if tiny else 'whole'}",
        shape.config(**(sizes | dict(shape.more))),
        layers=(1, 2),
        d_sae=256 if tiny else 2048,
        watched=16 if tiny else 64,
        device=stage.device.type,
    )


def _texts(tiny: bool) -> list[TokenIds]:
    draw = np.random.default_rng(0)
    lengths, (shared, behind) = ((1, 7, 65, 90), (70, (5, 30))) if tiny else (_LENGTHS, _COMMON)
    common = text_of(shared, draw)
    return [text_of(n, draw) for n in lengths] + [np.concatenate([common, text_of(n, draw)]) for n in behind]


def _engine(subject: Subject, stage: Stage, device: torch.device, dtype: str, way: Way) -> Engine:
    config = config_for(subject, threads=stage.threads, max_tokens=2048, max_batch_tokens=8192, device=device)
    with only_kind(way.kind):
        return engine_of(config.model_copy(update={"dtype": dtype, **way.changes}))
