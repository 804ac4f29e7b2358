"""Five ways to get the watched activations of a list of pairs, each loaded and run as its users do.

Every one takes token ids and gives, pair by pair, an array of shape (n_tokens, saes x watched) on the host.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import choices
from scopewatch.watch.watchlist import load_watchlist
from subjects import Subject, TokenIds

Dense = NDArray[np.float32]
Contender = Callable[[Sequence[TokenIds]], list[Dense]]

BATCH = 16
"""Pairs in a padded batch."""


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def config_for(
    subject: Subject, *, threads: int, max_tokens: int, max_batch_tokens: int, device: torch.device
) -> Config:
    return Config(
        watchlist=(subject.watchlist,),
        torch_threads=threads,
        max_tokens=max_tokens,
        max_batch_tokens=max_batch_tokens,
        device=device.type,
        pack_dir="",
    )


def engine_of(config: Config) -> Engine:
    return build_engine(*choices([load_watchlist(file) for file in config.watchlist]), config)


def token_batches(pairs: Sequence[TokenIds], budget: int) -> Iterator[list[TokenIds]]:
    """The batches that the service makes when all pairs wait: each time the oldest that fit the token budget."""
    batch: list[TokenIds] = []
    for ids in pairs:
        if batch and sum(map(len, batch)) + len(ids) > budget:
            yield batch
            batch = []
        batch.append(ids)
    yield batch


def scopewatch(subject: Subject, engine: Engine, budget: int) -> Contender:
    """The engine, in batches of at most `budget` tokens."""
    places = {key: place for place, key in enumerate(subject.feature_keys)}
    columns = np.array([places[str(feature)] for feature in engine.identity.features])

    def run(pairs: Sequence[TokenIds]) -> list[Dense]:
        found = []
        for batch in token_batches(pairs, budget):
            for activations in engine.runner(batch).activations:
                if isinstance(activations, Exception):
                    raise activations
                dense = np.zeros((activations.n_tokens, len(columns)), np.float32)
                dense[activations.token, columns[activations.column]] = activations.value
                found.append(dense)
        return found

    return run


def _weights(subject: Subject, device: torch.device) -> dict[int, dict[str, torch.Tensor]]:
    """Every SAE's whole weights by layer, named as SAELens does."""
    weights = {}
    for layer, file in subject.saes.items():
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
        else:
            tensors = load_file(file)
        weights[layer] = {name.replace("w_", "W_"): tensor.float().to(device) for name, tensor in tensors.items()}
    return weights


def watched_thresholds(subject: Subject) -> Dense:
    """Thresholds of the watched features, shape (saes x watched,)."""
    weights = _weights(subject, torch.device("cpu"))
    return np.concatenate([weights[layer]["threshold"].numpy()[list(subject.watched)] for layer in sorted(weights)])


def _padded(pairs: Sequence[TokenIds], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right, and their mask."""
    ids = torch.zeros((len(pairs), max(map(len, pairs))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (own, known) in enumerate(zip(pairs, mask, strict=True)):
        ids[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
        known[: len(own)] = 1
    return ids.to(device), mask.to(device)


def _in_padded_batches(device: torch.device, encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Contender:
    @torch.inference_mode()
    def run(pairs: Sequence[TokenIds]) -> list[Dense]:
        found: list[Dense] = []
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            dense = encode(*_padded(batch, device)).float().cpu().numpy()
            found.extend(own[: len(ids)] for own, ids in zip(dense, batch, strict=True))
        return found

    return run


def saelens(subject: Subject, device: torch.device) -> Contender:
    """`SAETransformerBridge.run_with_cache` and `JumpReLUSAE.encode`, called as SAELens' own evaluation calls them.

    That is with `names_filter` and `stop_at_layer`; without the latter the head's logits (16 x 2,000 x 262,144 in
    float32: 31 GiB) do not fit this machine. Padding is on the right and attention causal, so no mask is passed.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
        from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

        logging.disable(logging.WARNING)
        model: Any = SAETransformerBridge.boot_transformers(
            str(subject.reader), device=str(device), dtype=dtype_on(device)
        )
        logging.disable(logging.NOTSET)
    saes = {}
    for layer, weights in sorted(_weights(subject, device).items()):
        d_in, d_sae = weights["W_enc"].shape
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae, device=str(device), apply_b_dec_to_input=False))
        sae.load_state_dict(weights)
        saes[f"blocks.{layer}.hook_out"] = sae
    watched = list(subject.watched)

    def encode(ids: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
        _, cache = model.run_with_cache(ids, names_filter=list(saes), stop_at_layer=subject.layers_run)
        return torch.cat([sae.encode(cache[hook])[..., watched] for hook, sae in saes.items()], dim=-1)

    return _in_padded_batches(device, encode)


def _jumprelu(stream: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    pre = stream.float() @ weights["W_enc"] + weights["b_enc"]
    return pre * (pre > weights["threshold"])


def _attention(subject: Subject) -> str:
    return "eager" if subject.config.model_type == "gemma2" else "sdpa"


def transformers(subject: Subject, device: torch.device) -> Contender:
    """`AutoModelForCausalLM` with `output_hidden_states`, then the whole dictionary.

    The whole model runs, but for logits of all tokens but the last, which do not fit a machine's memory.
    """
    model = AutoModelForCausalLM.from_pretrained(
        subject.reader, dtype=dtype_on(device), attn_implementation=_attention(subject), local_files_only=True
    ).to(device)
    saes = sorted(_weights(subject, device).items())
    watched = list(subject.watched)

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        streams = model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, logits_to_keep=1
        ).hidden_states
        return torch.cat([_jumprelu(streams[layer + 1], weights)[..., watched] for layer, weights in saes], dim=-1)

    return _in_padded_batches(device, encode)


def expert(subject: Subject, device: torch.device, *, by_length: bool = False) -> Contender:
    """The expert's afternoon: no head, no later layer, only the watched columns, encoded in a forward hook.

    Args:
        subject: What is measured.
        device: The device that computes.
        by_length: Pairs are sorted before they are batched, which needs them all to be there at once.
    """
    model: Any = AutoModel.from_pretrained(
        subject.reader, dtype=dtype_on(device), attn_implementation=_attention(subject), local_files_only=True
    ).to(device)
    model.layers = model.layers[: subject.layers_run]
    model.config.num_hidden_layers = subject.layers_run
    found: list[torch.Tensor] = []
    watched = list(subject.watched)
    for layer, whole in sorted(_weights(subject, device).items()):
        sliced = {name: whole[name][..., watched].contiguous() for name in ("W_enc", "b_enc", "threshold")}

        def keep(_module: object, _inputs: object, output: Any, sliced: dict[str, torch.Tensor] = sliced) -> None:
            found.append(_jumprelu(output[0] if isinstance(output, tuple) else output, sliced))

        model.layers[layer].register_forward_hook(keep)

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found.clear()
        model(input_ids=ids, attention_mask=mask, use_cache=False)
        return torch.cat(found, dim=-1)

    run = _in_padded_batches(device, encode)
    return sorted_by_length(run) if by_length else run


def sorted_by_length(run: Contender) -> Contender:
    def run_sorted(pairs: Sequence[TokenIds]) -> list[Dense]:
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]))
        found = dict(zip(order, run([pairs[i] for i in order]), strict=True))
        return [found[i] for i in range(len(pairs))]

    return run_sorted
