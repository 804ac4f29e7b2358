"""A reader's `config.json`: the text model it describes, and what of it cannot be read with."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from scopewatch.errors import ReaderError
from scopewatch.reader.attention import register_attention
from scopewatch.reader.bare_model import bare_model
from scopewatch.reader.families import FAMILIES

T = TypeVar("T")

_ROPES = {"default", *ROPE_INIT_FUNCTIONS} - {"longrope"}
"""Kinds of rotary positions. The frequencies of longrope follow the longest pair of a batch: a pair's activations would
depend on its neighbours."""
_MAX_LAYERS = 1000
"""The most layers that a configuration may have; readers have up to 126."""
_TRIED_LAYERS = 8
"""The most layers that are made before weights are loaded; enough for one of each kind, as families mix them."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a reader's `config.json` says."""

    model_type: str
    """The model type, one of `FAMILIES`."""
    text: Any
    """The configuration of the text model, as transformers has it."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes that it gives the weights of the embedding, the last norm and the first layers, by name."""


def read_configuration(directory: Path) -> Configuration:
    """Reads a reader's configuration, and tries whether a text model can be made of it.

    Raises:
        ReaderError: It cannot; names the field that is to blame, if one is.
    """
    return _attempt(directory, _described)


def _attempt(directory: Path, make: Callable[[Mapping[str, Any]], T]) -> T:
    settings = _settings(directory)
    try:
        return make(settings)
    except _Unfit as error:
        raise ReaderError(f"reader {directory}: config.json: {error}") from None
    # Transformers and torch raise whatever the code happens to raise that a value leads to.
    except Exception as error:
        field = _blamed(settings, make)
        raise ReaderError(f"reader {directory}: config.json: {field}{': ' * bool(field)}{on_one_line(error)}") from None


def on_one_line(error: Exception) -> str:
    """What an error of another library says, as a part of a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class _Unfit(Exception):
    """Says why a configuration is none of a reader."""


def _settings(directory: Path) -> dict[str, Any]:
    """What the file holds, of a model type that is supported."""
    try:
        settings: Any = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ReaderError(f"reader {directory}: config.json: cannot be read as JSON: {error}") from None
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if not isinstance(kind, str):
        raise ReaderError(f"reader {directory}: config.json: expected a JSON object with a text model_type")
    if kind not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise ReaderError(
            f"reader {directory}: config.json: model_type {kind[:50]!r} is not supported yet; supported: {supported}"
        )
    return dict(settings)


def _described(settings: Mapping[str, Any]) -> Configuration:
    """What settings describe, checked and tried.

    Raises:
        _Unfit: A reader cannot be of this kind.
        Exception: Anything, where transformers or torch cannot use a value.
    """
    for part in (settings, settings.get("text_config")):
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        # Transformers makes a list of as many.
        if isinstance(layers, int) and not 0 < layers <= _MAX_LAYERS:
            raise _Unfit(f"num_hidden_layers is {layers}; expected a number from 1 to {_MAX_LAYERS}")
    config: Any = CONFIG_MAPPING[settings["model_type"]].from_dict(copy.deepcopy(dict(settings)))
    text = config.get_text_config()
    _check(config, text)
    # Rows of padding are never read, and transformers wants theirs inside the vocabulary.
    text.pad_token_id = None
    weights = _of_first_layers(text).state_dict()
    return Configuration(config.model_type, text, {name: tuple(weight.shape) for name, weight in weights.items()})


def _check(config: Any, text: Any) -> None:
    """Refuses what would be read otherwise than the model was made for."""
    if getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None):
        raise _Unfit("quantization_config; quantised weights are not read")
    if getattr(text, "use_bidirectional_attention", None) or not getattr(text, "is_causal", True):
        raise _Unfit("attention is not causal; a reader reads left to right")
    for kind in _rope_kinds(text):
        if kind not in _ROPES:
            raise _Unfit(f"rope type {kind} is not supported; supported: {', '.join(sorted(_ROPES))}")
    if text.max_position_embeddings < 1:
        raise _Unfit("max_position_embeddings is less than 1")
    slides = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if (window is None and slides) or (window is not None and window < 1):
        raise _Unfit(f"sliding_window is {window}; a window holds at least 1 token")


def _rope_kinds(text: Any) -> list[Any]:
    """The kind of rotary positions, or those of each kind of layer."""
    rotary = text.rope_parameters or {}
    inner = [of_layers for of_layers in rotary.values() if isinstance(of_layers, dict)]
    return [one.get("rope_type", "default") for one in inner or [rotary]]


def assert_runs(directory: Path) -> None:
    """Runs the first layers of a model of this kind, with weights that have shapes only.

    Raises:
        ReaderError: It cannot be run; names the field of `config.json` that is to blame, if one is.
    """
    _attempt(directory, _run)


def _run(settings: Mapping[str, Any]) -> None:
    text = _described(settings).text
    # Those of the kind dynamic look at positions, which have no values here either.
    if "dynamic" not in _rope_kinds(text):
        model = _of_first_layers(text).to("meta")  # type: ignore[arg-type]
        model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device="meta"), use_cache=False)


def _of_first_layers(text: Any) -> PreTrainedModel:
    first = copy.deepcopy(text)
    shorten(first, min(text.num_hidden_layers, _TRIED_LAYERS))
    return bare_model(first, register_attention(torch.device("cpu")).name)


def shorten(text: Any, layers: int) -> None:
    """Cuts the configuration of a text model to its first layers."""
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def _blamed(settings: Mapping[str, Any], attempt: Callable[[dict[str, Any]], object]) -> str:
    """The first field without which an attempt succeeds, also inside `text_config`; empty if there is none."""
    text = settings.get("text_config")
    inside = _blamed(text, lambda part: attempt({**settings, "text_config": part})) if isinstance(text, dict) else ""
    if inside:
        return f"text_config.{inside}"
    for name in settings:
        try:
            attempt({other: settings[other] for other in settings if other != name})
        except Exception:  # noqa: S112 - it is another field, or not this one alone
            continue
        return name
    return ""
