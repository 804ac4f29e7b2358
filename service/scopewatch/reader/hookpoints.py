"""Where activations are taken: named sites, and any module inside a decoder layer.

    resid_pre --+-- norm -- attention: heads = attn_z -- o_proj -- [post norm] = attn_out --+-- resid_mid
    resid_mid --+-- norm = mlp_in -- mlp -- [post norm] = mlp_out --------------------------+-- resid_post

Only Gemma has the post norms. `mlp_in_unit` is `mlp_in` without the norm's gain: the input of Gemma Scope's first
transcoders and TransformerLens' `ln2.hook_normalized`. `embed` is the unscaled row of the embedding matrix, which Gemma
Scope's embedding SAEs read; the output of Gemma's embedding module is that row times sqrt(d).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from scopewatch.errors import SaeError
from scopewatch.reader.families import INPUT_NORM, UNIT, common_paths, modules_in_a_layer, named_sites
from scopewatch.reader.loading import Reader

Change = Callable[[torch.Tensor], torch.Tensor]
"""What becomes of a hookpoint's activations, shape (batch, tokens, width), before they flow on."""
EMBEDDING = -1
"""`Hookpoint.layer` of what comes before layer 0."""
EMBED = "embed"
EMBED_MODULE = "embed_tokens.output"

# What TransformerLens calls them. Its hook_mlp_in fires before the norm, whatever releases mean by it.
_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "attn.hook_z": "attn_z",
    "hook_attn_out": "attn_out",
    "hook_mlp_in": "resid_mid",
    "mlp.hook_in": "mlp_in",
    "ln2.hook_normalized": UNIT,
    "hook_mlp_out": "mlp_out",
}
_NUMBER = "(0|[1-9][0-9]{0,3})"
_ROOT = r"(?:(?:model|language_model)\.)*"
_CHILD = f"(?:{'|'.join(modules_in_a_layer())})"
_IN_LAYER = re.compile(rf"{_ROOT}layers\.{_NUMBER}(?:\.([a-z_.]+))?")
_IN_BLOCK = re.compile(rf"blocks\.{_NUMBER}\.([a-z0-9_.]+)")
_EMBEDDING_MODULE = re.compile(rf"hook_embed|{_ROOT}embed_tokens(?:\.output)?")
_MODULE = re.compile(rf"({_CHILD}(?:\.[a-z_]+)*?)(\.input|\.output)?")


@dataclass(frozen=True, slots=True, order=True)
class Hookpoint:
    """A site of decoder layer `layer`, counted from 0; the layer of `embed` and the embedding module is -1.

    `site` is a named site, or the path of a module inside the layer with `.input` or `.output` at its end.
    """

    layer: int
    site: str = "resid_post"

    def __str__(self) -> str:
        return self.site if self.layer == EMBEDDING else f"layers.{self.layer}.{self.site}"


def parse_hookpoint(text: str) -> Hookpoint:
    """Reads a hookpoint as scopewatch, Hugging Face, sparsify or TransformerLens write it.

    `layers.20.mlp_out`, `layers.20` (its output), `model.layers.20.mlp.output`, `layers.20.mlp` (the module's own
    output), `blocks.20.hook_mlp_out`, `embed`, `embed_tokens`, `hook_embed`. A module's path stays one unless it is the
    same named site in every family.

    Raises:
        SaeError: The text is none of these.
    """
    site: str | None = None
    if text == EMBED:
        return Hookpoint(EMBEDDING, EMBED)
    if _EMBEDDING_MODULE.fullmatch(text):
        return Hookpoint(EMBEDDING, EMBED_MODULE)
    if match := _IN_BLOCK.fullmatch(text):
        site = _TRANSFORMER_LENS.get(match[2])
    elif match := _IN_LAYER.fullmatch(text):
        site = _site_in_layer(match[2] or "output")
    if match is None or site is None:
        raise SaeError(
            f"hookpoint {text!r} is not known; write it like layers.20.resid_post. "
            f"Sites of a layer: {', '.join(named_sites())}; "
            f"others: {EMBED}, a module's path such as layers.20.mlp.output"
        )
    return Hookpoint(int(match[1]), site)


def hookpoint_of(told: str, published: str, file: Path) -> Hookpoint:
    """Where an SAE reads.

    Args:
        told: The hookpoint as a watchlist or a command says it; it comes first. Empty if neither does.
        published: The hookpoint as the SAE's publisher writes it; empty when the files do not say.
        file: The SAE's, for messages.

    Raises:
        SaeError: Nobody says it, or it is no place in a model.
    """
    if not (told or published):
        raise SaeError(
            f"{file}: neither its files nor its folders say where it reads; "
            "say the hookpoint, for instance layers.20.resid_post"
        )
    return parse_hookpoint(told or published)


def _site_in_layer(rest: str) -> str | None:
    if rest in named_sites():
        return rest
    if rest in (common := common_paths()):
        return common[rest]
    module = _MODULE.fullmatch(rest)
    return module and module[1] + (module[2] or ".output")


def sites(reader: Reader) -> tuple[str, ...]:
    """Every named site of a reader."""
    return (*reader.family.sites, EMBED)


def tap(reader: Reader, hookpoint: Hookpoint, receive: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Calls `receive` with the activations at a hookpoint in every forward pass, until the handle is removed.

    They have shape (batch, tokens, width) and the reader's dtype; `mlp_in_unit` is float32.

    Raises:
        SaeError: The reader has no such hookpoint. In the forward pass: the module gives no vector per token.
    """
    if hookpoint.layer == EMBEDDING:
        return _tap_embedding(reader, hookpoint, receive)
    path, module = _module_at(reader, hookpoint)

    def give(activations: torch.Tensor) -> None:
        if activations.dim() != 3:
            raise SaeError(f"hookpoint {hookpoint}: gives no single vector for each token")
        receive(_unit(activations, getattr(module, reader.family.epsilon)) if hookpoint.site == UNIT else activations)

    return _hook(module, path, give)


def edit(reader: Reader, hookpoint: Hookpoint, change: Change) -> RemovableHandle:
    """Has `change(activations)` flow on at a hookpoint in every forward pass, until the handle is removed.

    What is attached later, taps of the same hookpoint included, sees what was changed.

    Args:
        reader: The reader.
        hookpoint: Where its activations are replaced.
        change: Takes them, of shape (batch, tokens, width), and gives others of the same shape and type.

    Raises:
        SaeError: The reader has no such hookpoint, or nothing that flows on there can be replaced.
    """
    if hookpoint.site in {UNIT, EMBED}:
        raise SaeError(
            f"hookpoint {hookpoint}: nothing can be taken out there; it is computed beside what the reader works on"
        )
    if hookpoint.layer == EMBEDDING:
        return _tap_embedding(reader, hookpoint, change)
    path, module = _module_at(reader, hookpoint)
    if path == f"{INPUT_NORM}.input":
        path, module = "input", reader.layers[hookpoint.layer]
    if path != reader.family.sites["resid_mid"]:
        return _hook(module, path, change)

    # The stream itself runs past this module: the layer adds to the very tensor that the module is given.
    return _hook(module, path, lambda activations: activations.copy_(change(activations)))


def _module_at(reader: Reader, hookpoint: Hookpoint) -> tuple[str, torch.nn.Module]:
    """The path of a hookpoint inside its layer, with `input` or `output` at its end, and the module there.

    Raises:
        SaeError: The reader has no such hookpoint.
    """
    if not 0 <= hookpoint.layer < len(reader.layers):
        raise SaeError(f"hookpoint {hookpoint}: the reader is loaded down to layer {len(reader.layers) - 1}")
    path = reader.family.sites.get(hookpoint.site, hookpoint.site)
    name, _, end = path.rpartition(".")
    try:
        # Not by a walk over all modules: every pass attaches its taps anew.
        module = reader.layers[hookpoint.layer].get_submodule(name)
    except AttributeError:
        module = None
    if module is None or end not in {"input", "output"}:
        raise SaeError(
            f"hookpoint {hookpoint}: {reader.identity.model_type} readers have no such module; "
            f"their sites: {', '.join(sites(reader))}"
        )
    return path, module


def _hook(module: torch.nn.Module, path: str, give: Callable[[torch.Tensor], torch.Tensor | None]) -> RemovableHandle:
    """Gives a module's first input or its (first) output, in every forward pass; what comes back takes its place."""

    def give_output(_module: object, _inputs: object, output: Any) -> Any:
        several = isinstance(output, tuple)
        changed = give(output[0] if several else output)
        return (changed, *output[1:]) if several and changed is not None else changed

    def give_input(_module: object, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        changed = give(inputs[0] if inputs else named["hidden_states"])
        if changed is None:
            return None
        return ((changed, *inputs[1:]), named) if inputs else (inputs, named | {"hidden_states": changed})

    handle: RemovableHandle = (
        module.register_forward_hook(give_output)
        if path.endswith("output")
        else module.register_forward_pre_hook(give_input, with_kwargs=True)
    )
    return handle


def width(reader: Reader, hookpoint: Hookpoint) -> int:
    """Length of the vectors at a hookpoint, measured with a forward pass of two tokens, on whatever thread.

    Raises:
        SaeError: The reader has no such hookpoint, or no vector per token there.
    """
    widths: list[int] = []
    ids = torch.zeros((1, 2), dtype=torch.long, device=reader.device)
    with reader.turn, torch.inference_mode():
        handle = tap(reader, hookpoint, lambda activations: widths.append(activations.shape[-1]))
        try:
            reader.model(input_ids=ids, use_cache=False)
        finally:
            handle.remove()
    return widths[0]


def _tap_embedding(
    reader: Reader, hookpoint: Hookpoint, give: Callable[[torch.Tensor], torch.Tensor | None]
) -> RemovableHandle:
    if hookpoint.site not in {EMBED, EMBED_MODULE}:
        raise SaeError(f"hookpoint {hookpoint}: before layer 0 there are only {EMBED} and {EMBED_MODULE}")
    embedding: Any = reader.model.get_input_embeddings()

    def hook(_module: object, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        return give(functional.embedding(inputs[0], embedding.weight) if hookpoint.site == EMBED else output)

    handle: RemovableHandle = embedding.register_forward_hook(hook)
    return handle


def _unit(residual: torch.Tensor, epsilon: float) -> torch.Tensor:
    """What an RMSNorm makes of (..., d) before its gain: x / sqrt(mean(x^2) + eps), in float32."""
    wide = residual.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
