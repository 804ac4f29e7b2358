"""Has a loaded model run in few kernels, if these give what it gives without them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

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
_TOLERANCES = {torch.float32: (1e-4, 1e-6), torch.bfloat16: (3e-2, 2**-8)}
"""By dtype, how far a part may be off: as a share of what it adds to its input, and as a share of its output, which is
rounded once. Both of the norm of a token's vector."""


def fuse(model: Any, family: Family) -> bool:
    """Has a model run in few kernels from now on, if on random tokens every part of it gives what it gave before.

    Otherwise it stays as it is, and the log says why. Weights that are multiplied together become parts of one tensor
    either way; a model keeps one copy of them.

    Args:
        model: A text model on its device, for reading only.
        family: The model's family.

    Returns:
        Whether it runs in few kernels.
    """
    ids = torch.randint(model.config.vocab_size, (1, _TOKENS), generator=torch.Generator().manual_seed(0)).to(
        model.device
    )
    parts = [*model.layers, model.norm]
    with _calls_of(parts) as calls:
        model(input_ids=ids, use_cache=False)
    try:
        install(model, family)
        for name, part, call in zip([*map(str, range(len(model.layers))), "norm"], parts, calls, strict=True):
            _compare(part, call, name)
    # Compilers, drivers and what they are built on raise errors of many kinds.
    except Exception as error:
        _remove(model)
        log.warning("the reader runs without fused kernels: %s: %s", type(error).__name__, " ".join(str(error).split()))
        return False
    return True


class _DeviationError(Exception):
    """Says which part gives something else."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What a part of a model was given, and what it gave."""

    x: torch.Tensor
    named: dict[str, Any]
    output: torch.Tensor


@contextmanager
def _calls_of(parts: Sequence[torch.nn.Module]) -> Iterator[list[_Call]]:
    """The calls of some parts, in order, while the block lasts."""
    calls: list[_Call] = []

    def note(_part: object, given: tuple[torch.Tensor, ...], named: dict[str, Any], output: torch.Tensor) -> None:
        calls.append(_Call(given[0], named, output))

    handles = [part.register_forward_hook(note, with_kwargs=True) for part in parts]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _compare(part: torch.nn.Module, call: _Call, name: str) -> None:
    """Runs a part once more, on the same input.

    Raises:
        _DeviationError: It gives something else than before.
    """
    of_change, of_output = _TOLERANCES[call.output.dtype]
    expected, found, x = (tensor.double() for tensor in (call.output, part(call.x, **call.named), call.x))
    off, change, size = (difference.norm(dim=-1) for difference in (found - expected, expected - x, expected))
    # Written so that NaN counts as off.
    if not (off <= of_change * change + of_output * size).all():
        raise _DeviationError(f"layer {name} is off by {float((off / size).max()):.1e} of its output")


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
