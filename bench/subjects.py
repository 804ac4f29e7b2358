"""What is measured: readers of released shapes with random weights, their SAEs, and the pairs they read."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, PreTrainedConfig

from scopewatch.config import BUNDLED_WATCHLIST
from scopewatch.sae.open import open_sae
from scopewatch.types import Pair

TokenIds = NDArray[np.int32]

INDICATORS = 4
"""Indicator `i` sums features `i`, `i + INDICATORS`, ... of `Subject.feature_keys`."""
_BUNDLED = BUNDLED_WATCHLIST.parent
_L0_Z = 2.68
"""Standard deviations between a feature's mean and its threshold: a normal variable passes it 0.37 % of the time, which
is 60 of 16k features per token."""
_MEDIAN_TOKENS, _SIGMA, _MOST_TOKENS = 120, 1.0, 2000
_WORDS = (
    "the of and to in is it that was for on are with as at be this have from or had by but some what there can out "
    "other were all your when up use word how said an each she which do their time will way about many then them "
    "would like these long make thing see him two has look more day could go come did my sound no most number who "
    "over know water than call first people may down side been now find pressure insulin blood plan"
)
"""Each one token of the bundled tokenizer."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A reader, its SAEs by layer, and the features watched of each."""

    name: str
    reader: Path
    saes: dict[int, Path]
    watched: tuple[int, ...]
    watchlist: Path

    @property
    def config(self) -> Any:
        return AutoConfig.from_pretrained(self.reader, local_files_only=True)

    @property
    def layers_run(self) -> int:
        return max(self.saes) + 1

    @property
    def sae_names(self) -> dict[str, int]:
        """Names in the watchlist, zero-padded so that the engine's order is that of the layers."""
        return {f"layer{layer:02}": layer for layer in sorted(self.saes)}

    @property
    def feature_keys(self) -> list[str]:
        """Every watched feature as the watchlist writes it, in the order of the contenders' columns."""
        return [f"{sae}/{feature}" for sae in self.sae_names for feature in self.watched]


def gemma3_270m(**changes: Any) -> PreTrainedConfig:
    """google/gemma-3-270m, as its config.json says."""
    sizes: dict[str, Any] = {
        "vocab_size": 262_144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "max_position_embeddings": 32_768,
    } | changes
    layers = range(sizes["num_hidden_layers"])
    kinds = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in layers]
    return Gemma3TextConfig(**sizes, layer_types=kinds)


_GEMMA2 = {"vocab_size": 256_000, "head_dim": 256, "sliding_window": 4096, "max_position_embeddings": 8192}


def gemma2_2b(**changes: Any) -> PreTrainedConfig:
    """google/gemma-2-2b, as its config.json says."""
    sizes: dict[str, Any] = _GEMMA2 | {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
    }
    return Gemma2Config(**(sizes | changes))


def gemma2_9b(**changes: Any) -> PreTrainedConfig:
    """google/gemma-2-9b, as its config.json says."""
    sizes: dict[str, Any] = _GEMMA2 | {
        "hidden_size": 3584,
        "intermediate_size": 14_336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "query_pre_attn_scalar": 256,
    }
    return Gemma2Config(**(sizes | changes))


def bundled(folder: Path, *, watched: int) -> Subject:
    """The reader that comes with scopewatch, and evenly spread features of its SAE."""
    (sae,) = (_BUNDLED / "sae").rglob("params.npz")
    return _subject("bundled", folder, _BUNDLED / "reader", {2: sae}, watched)


def random_subject(
    name: str, folder: Path, config: PreTrainedConfig, *, layers: Sequence[int], d_sae: int, watched: int, device: str
) -> Subject:
    """A reader of random weights and Gemma Scope 2 SAEs whose features fire on about 0.4 % of tokens each.

    The tokenizer is the bundled one: pairs are made to have the wanted number of tokens with it.
    """
    reader = folder / "reader"
    saes = {
        layer: folder / "resid_post" / f"layer_{layer}_width_{d_sae}_l0_medium" / "params.safetensors"
        for layer in layers
    }
    if not all(file.exists() for file in saes.values()):
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        # Released readers are bfloat16.
        model.save_pretrained(reader)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (reader / file).write_bytes((_BUNDLED / "reader" / file).read_bytes())
        with torch.inference_mode():
            tokens = torch.randint(0, config.vocab_size, (2, 256), device=device)
            streams = model.float()(tokens, output_hidden_states=True, logits_to_keep=1).hidden_states
        for layer, file in saes.items():
            file.parent.mkdir(parents=True)
            save_file(_sae(streams[layer + 1].flatten(0, 1).cpu(), d_sae), file)
    return _subject(name, folder, reader, saes, watched)


def _sae(stream: torch.Tensor, d_sae: int) -> dict[str, torch.Tensor]:
    """Random JumpReLU weights whose thresholds fit a stream of shape (n_tokens, d_in)."""
    w_dec = torch.nn.functional.normalize(torch.randn(d_sae, stream.shape[1]), dim=1)
    w_enc = w_dec.T.contiguous()
    b_enc = 0.1 * torch.randn(d_sae)
    pre = stream @ w_enc + b_enc
    threshold = (pre.mean(0) + _L0_Z * pre.std(0)).clamp(min=0.01)
    return {"w_enc": w_enc, "b_enc": b_enc, "threshold": threshold, "w_dec": w_dec, "b_dec": torch.randn(len(w_dec.T))}


def _subject(name: str, folder: Path, reader: Path, saes: dict[int, Path], watched: int) -> Subject:
    d_sae = open_sae(next(iter(saes.values()))).d_sae
    features = tuple(np.linspace(0, d_sae - 1, watched).astype(int).tolist())
    folder.mkdir(parents=True, exist_ok=True)
    subject = Subject(name, reader, saes, features, folder / "watchlist.yaml")
    write_watchlist(subject, [1.0] * INDICATORS)
    return subject


def write_watchlist(subject: Subject, thresholds: Sequence[float]) -> None:
    """Writes a watchlist of four indicators, each the sum of the maxima of its features over the response."""
    document = {
        "version": 1,
        "name": subject.name,
        "reader": {"path": str(subject.reader.resolve())},
        "saes": {
            sae: {"path": str(subject.saes[layer].resolve()), "hookpoint": f"layers.{layer}.resid_post"}
            for sae, layer in subject.sae_names.items()
        },
        "indicators": [
            {
                "name": f"i{i}",
                "pooling": "max",
                "threshold": float(threshold),
                "features": [{"feature": key} for key in subject.feature_keys[i::INDICATORS]],
            }
            for i, threshold in enumerate(thresholds)
        ],
    }
    subject.watchlist.write_text(yaml.safe_dump(document, sort_keys=False))


def lengths(count: int, most: int) -> list[int]:
    """Tokens of each pair: evenly spaced quantiles of a log-normal (median 120, sigma 1), cut at 2,000, shuffled."""
    normal = statistics.NormalDist(np.log(_MEDIAN_TOKENS), _SIGMA)
    tokens = [int(np.exp(normal.inv_cdf((i + 0.5) / count))) for i in range(count)]
    random.Random(0).shuffle(tokens)
    return [min(max(n, 8), most, _MOST_TOKENS) for n in tokens]


def pairs(tokens: Sequence[int], salt: int) -> list[Pair]:
    """Pairs of about so many tokens under the bundled tokenizer, a quarter of them the prompt's; a salt renews them."""
    draw = random.Random(salt)
    words = _WORDS.split()

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=max(1, count)))

    return [Pair(text(n // 4), text(n - n // 4 - 3)) for n in tokens]
