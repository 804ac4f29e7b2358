"""Has a loaded model run in few kernels, if these give what it gives without them."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from scopewatch.reader.configuration import on_one_line
from scopewatch.reader.families import Family
from scopewatch.reader.fused.operators import ACTIVATIONS
from scopewatch.reader.fused.parts import (
    Attending,
    FusedAttention,
    FusedGemmaLayer,
    FusedLayer,
    FusedMlp,
    FusedNorm,
    Gating,
    Joined,
    Norming,
)

log = logging.getLogger(__name__)

_TOKENS = 40
"""Random tokens on which both ways are compared."""
_AS_FAR = 2.0
"""How many times as far from float32 as transformers' own layers ours may be."""
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 1e-3}
"""By dtype, what is added to that, as a share of what a layer adds to the stream. In float32 it is all."""


def fuse(model: Any, family: Family) -> bool:
    """Has a model run in few kernels from now on, if on random tokens every layer of it gives what it gave before.

    Otherwise it stays as it is, and the log says why. Weights that are multiplied together become parts of one tensor
    either way; a model keeps one copy of them.

    Args:
        model: A text model on its device, for reading only.
        family: The model's family.

    Returns:
        Whether it runs in few kernels.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, _TOKENS), generator=generator).to(model.device)
    parts = [*model.layers, model.norm]
    with _calls_of(parts) as calls:
        model(input_ids=ids, use_cache=False)
    try:
        exact = [_in_float32(part, call) for part, call in zip(parts, calls, strict=True)]
        install(model, family)
        for number, part in enumerate(parts):
            _compare(part, calls[number], exact[number], number)
            with _calls_of(list(part.modules())[1:]):
                # Heard everywhere inside, it runs part by part.
                _compare(part, calls[number], exact[number], number)
    # Compilers, drivers and what they are built on raise errors of many kinds.
    except Exception as error:
        _remove(model)
        log.warning("the reader runs without fused kernels: %s", on_one_line(error))
        return False
    finally:
        if model.device.type == "cuda":
            # What single weights leave behind is too small for joined ones.
            torch.cuda.empty_cache()
    return True


class _DeviationError(Exception):
    """Says which layer, or the norm behind the last, gives something else."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What a part of a model was given, and what it gave."""

    given: tuple[torch.Tensor, ...]
    named: dict[str, Any]
    output: torch.Tensor


@contextmanager
def _calls_of(parts: Sequence[torch.nn.Module]) -> Iterator[list[_Call]]:
    """The calls of some parts, in order, while the block lasts."""
    calls: list[_Call] = []

    def note(_part: object, given: tuple[torch.Tensor, ...], named: dict[str, Any], output: torch.Tensor) -> None:
        calls.append(_Call(given, named, output))

    handles = [part.register_forward_hook(note, with_kwargs=True) for part in parts]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _in_float32(part: torch.nn.Module, call: _Call) -> torch.Tensor:
    """What a part as transformers wrote it makes of the same input where nothing is rounded to the reader's type."""
    named = dict(call.named)
    if angles := named.get("position_embeddings"):
        named["position_embeddings"] = [each.float() for each in angles]
    output: torch.Tensor = copy.deepcopy(part).float()(call.given[0].float(), **named)
    return output


def _compare(part: torch.nn.Module, call: _Call, exact: torch.Tensor, number: int) -> None:
    """Runs a part once more, on the same input.

    Raises:
        _DeviationError: It is further from what float32 gives than it was before.
    """
    again = part(*call.given, **call.named)
    # Of the smallest number there is, lest a part that changes nothing is off by 0 / 0.
    change = (exact - call.given[0].float()).norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    before, now = (((output.float() - exact).norm(dim=-1) / change).max().item() for output in (call.output, again))
    # Written so that NaN counts as off.
    if not now <= _AS_FAR * before + _ROUNDING[again.dtype]:
        raise _DeviationError(f"part {number} is off by {now:.1e} of what it adds, not by {before:.1e} as before")


def install(model: Any, family: Family) -> None:
    norming = Norming(model.config.rms_norm_eps, family.gain_from_one)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            _take_place(module, FusedNorm, norming=norming)
    activation = getattr(model.config, family.activation)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        _take_place(attention, FusedAttention, attending=_attending(attention, norming, family))
        if activation in ACTIVATIONS:
            _take_place(mlp, FusedMlp, gating=_gating(mlp, activation))
        _take_place(layer, FusedGemmaLayer if hasattr(layer, "pre_feedforward_layernorm") else FusedLayer)


def _attending(attention: Any, norming: Norming, family: Family) -> Attending:
    how: dict[str, Any] = {
        "scaling": attention.scaling,
        "sliding_window": getattr(attention.config if family.one_window else attention, "sliding_window", None),
    }
    if family.attention_softcap:
        how["softcap"] = getattr(attention, family.attention_softcap)
    linears = attention.q_proj, attention.k_proj, attention.v_proj
    norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
    q_gain, k_gain = [norm.weight for norm in norms] or (None, None)
    return Attending(
        (*linears, *norms),
        _join(*linears),
        len(attention.q_proj.weight) // attention.head_dim,
        len(attention.k_proj.weight) // attention.head_dim,
        q_gain,
        k_gain,
        norming,
        how,
    )


def _gating(mlp: Any, activation: str) -> Gating:
    return Gating((mlp.gate_proj, mlp.up_proj, mlp.act_fn), _join(mlp.gate_proj, mlp.up_proj), activation)


def _join(*linears: Any) -> Joined:
    """Linear layers of one input as one; their weights become parts of its weights."""
    weight = _joined([linear.weight for linear in linears])
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return Joined(weight, _joined(biases) if biases else None)


@torch.no_grad()
def _joined(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    whole = torch.cat(list(parameters))
    parts = torch.split(whole, [len(parameter) for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part
    return whole


def _take_place(module: Any, fused: type, **told: object) -> None:
    """Has a module run as a class of `parts` does."""
    for name, value in told.items():
        setattr(module, name, value)
    plain: Any = type(module)
    module.__class__ = _with(fused, plain)


@cache
def _with(fused: Any, plain: Any) -> type:
    return type(f"{fused.__name__}Of{plain.__name__}", (fused, plain), {"plain": plain})


def _remove(model: torch.nn.Module) -> None:
    """Has all modules run as transformers wrote them."""
    for module in model.modules():
        module.__class__ = getattr(type(module), "plain", type(module))
