"""The reader model: a Hugging Face decoder of which only the layers up to the deepest watched one are loaded."""

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from scopewatch.errors import ConfigError, ReaderError
from scopewatch.identity import ReaderIdentity
from scopewatch.reader.attention import register_attention
from scopewatch.reader.attention_trials import AttentionShapes
from scopewatch.reader.bare_model import bare_model, fill
from scopewatch.reader.configuration import assert_runs, on_one_line, read_configuration, shorten
from scopewatch.reader.families import FAMILIES, Family
from scopewatch.reader.head import Head
from scopewatch.reader.linear import multiplies_bfloat16, pack_linears
from scopewatch.reader.packing import AttentionKind
from scopewatch.reader.rounding import rounded
from scopewatch.reader.weight_files import OWN_HEAD, digests, text_weights
from scopewatch.types import Rounding

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reader:
    """A loaded reader."""

    model: PreTrainedModel
    """The text model, up to its last norm."""
    layers: torch.nn.ModuleList
    """The decoder layers that are loaded."""
    identity: ReaderIdentity
    hidden_size: int
    """Length of the residual stream's vectors."""
    context: int
    """The most tokens its positions allow."""
    vocabulary: int
    """Number of tokens it has embeddings for."""
    device: torch.device
    attention: AttentionKind
    """The attention that its layers run."""
    head: Head | None = None
    """The output head, where it was asked for."""
    turn: threading.RLock = field(default_factory=threading.RLock)
    """Held by the thread whose forward pass runs: taps of one pass must not see another's activations."""

    @property
    def family(self) -> Family:
        """What is special about the reader's family."""
        return FAMILIES[self.identity.model_type]

    @contextmanager
    def cut_to(self, layers: int) -> Iterator[None]:
        """Passes run only the first so many layers; to be entered while `turn` is held."""
        # Every family of transformers loops over `self.layers[: self.config.num_hidden_layers]`.
        config: Any = self.model.config
        config.num_hidden_layers = layers
        try:
            yield
        finally:
            config.num_hidden_layers = len(self.layers)


def layer_count(directory: Path) -> int:
    """The number of decoder layers of a reader.

    Raises:
        ReaderError: Its configuration cannot be read, or is of no supported family.
    """
    return int(read_configuration(directory).text.num_hidden_layers)


def load_reader(
    directory: Path,
    *,
    name: str,
    revision: str,
    deepest_layer: int,
    device: str,
    dtype: str,
    fused: bool = True,
    attention_kind: str = "auto",
    head: bool = False,
    rounding: Rounding = "none",
) -> Reader:
    """Loads layers 0 to `deepest_layer` of a reader's text model; all layers if its head is asked for.

    Args:
        directory: The reader's directory, from `find_reader`.
        name: What the watchlist calls the reader.
        revision: Hub revision, or empty.
        deepest_layer: Deepest watched layer, counted from 0; -1 where only the embedding is watched.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32` or `bfloat16`.
        fused: Whether layers run in few kernels on a GPU, if these give what torch's own give.
        attention_kind: The name of the attention that its layers run; auto for the fastest that is right.
        head: Whether to load the output head.
        rounding: The format that the weights, but those of the head, are rounded to; digests are of the files.

    Raises:
        ReaderError: The reader is of an unsupported family, too shallow, incomplete, or without its soft-capping.
        ConfigError: The device, dtype or attention cannot be had here.
    """
    place = _device(device)
    kind = _dtype(dtype, place)
    configuration = read_configuration(directory)
    config, family = configuration.text, FAMILIES[configuration.model_type]
    layers_total = config.num_hidden_layers
    if deepest_layer >= layers_total:
        raise ReaderError(
            f"reader {directory}: layer {deepest_layer} is watched, but it has layers 0 to {layers_total - 1}"
        )
    layers_run = layers_total if head else deepest_layer + 1
    shorten(config, layers_run)
    attention = register_attention(place, AttentionShapes.of(config, kind, attention_kind))
    weights = text_weights(directory, layers_run, layers_total, head=head)
    _assert_shapes(weights, configuration.shapes, directory)
    weights_digests = digests(directory, weights)
    own_head = weights.pop(OWN_HEAD, None)
    model: Any = _load_model(directory, config, rounded(weights, rounding), kind, attention.name)
    _assert_attention(model, family, attention.name, directory)
    _settle(model, family, place, directory)
    kernels = _kernels(model, family, place, fused=fused)
    by_depth = weights_digests.result()
    identity = ReaderIdentity(
        name=name,
        revision=revision,
        model_type=configuration.model_type,
        digest=by_depth[-1],
        layers_run=layers_run,
        layers_total=layers_total,
        dtype=str(kind).removeprefix("torch."),
        device=place.type,
        attention=attention.name,
        chat_template=False,
        layer_digests=tuple(by_depth[: layers_run + 1]),
        kernels=kernels,
    )
    return Reader(
        model,
        model.layers,
        identity,
        config.hidden_size,
        config.max_position_embeddings,
        config.vocab_size,
        place,
        attention,
        _head(directory, model, family, own_head) if head else None,
    )


def _settle(model: PreTrainedModel, family: Family, place: torch.device, directory: Path) -> None:
    """Puts a model on its device, for reading only, in the form that is fastest there, once it has read two tokens."""
    try:
        torch.nn.Module.to(model, place).train(mode=False)
        model.requires_grad_(requires_grad=False)
        if place.type == "cpu":
            pack_linears(model, getattr(model.config, family.activation, ""))
        hidden = model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=place), use_cache=False, return_dict=True)[
            0
        ]
    # As with what is made of a configuration: whatever its values lead to.
    except Exception as error:
        assert_runs(directory)
        raise ReaderError(f"reader {directory}: cannot be run on {place}: {on_one_line(error)}") from None
    # Attention may hide what positions that are no numbers made of its logits.
    if not all(torch.isfinite(numbers).all() for numbers in [hidden, *model.buffers()]):
        raise ReaderError(
            f"reader {directory}: reads numbers that are not finite; the weights, or rope_parameters or rms_norm_eps "
            "in config.json, are wrong"
        )


def _kernels(model: PreTrainedModel, family: Family, place: torch.device, *, fused: bool) -> str:
    """Has a model run in few kernels where that is wanted and possible; gives `ReaderIdentity.kernels`."""
    if place.type == "cpu" or not fused:
        return "plain"
    from scopewatch.reader.fused.fusing import fuse

    return "fused" if fuse(model, family) else "plain"


def _load_model(
    directory: Path, config: Any, weights: dict[str, torch.Tensor], dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    try:
        model = bare_model(config, attention, dtype)
        lacking, needless = fill(model, weights)
    # Transformers and torch raise errors of many kinds over weights that do not fit.
    except Exception as error:
        raise ReaderError(f"reader {directory}: cannot be loaded: {on_one_line(error)}") from None
    if lacking:
        raise ReaderError(f"reader {directory}: the weights lack {lacking[0]} and {len(lacking) - 1} more")
    if needless:
        raise ReaderError(f"reader {directory}: the weights hold {needless[0]}, which config.json has no place for")
    return model


def _assert_shapes(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[int, ...]], directory: Path) -> None:
    """Refuses weights of other shapes than the configuration says, before memory is taken for those that it says."""
    for name, weight in weights.items():
        if (there := tuple(weight.shape)) != (asked := wanted.get(name, there)):
            raise ReaderError(f"reader {directory}: {name} has shape {there}, config.json asks for {asked}")


def _head(directory: Path, model: PreTrainedModel, family: Family, own: torch.Tensor | None) -> Head:
    """The output head: weights of its own, or the embedding's where the configuration ties them and no file objects."""
    config: Any = model.config
    embedding: Any = model.get_input_embeddings()
    weight = embedding.weight
    if own is None:
        if not config.tie_word_embeddings:
            raise ReaderError(f"reader {directory}: the weights lack {OWN_HEAD}, which the reader's predictions need")
    elif own.shape != weight.shape:
        raise ReaderError(
            f"reader {directory}: {OWN_HEAD} has shape {tuple(own.shape)}, config.json asks for {tuple(weight.shape)}"
        )
    elif not torch.equal(placed := own.to(weight), weight):
        weight = placed
    return Head(weight, getattr(config, family.logit_softcap, None) if family.logit_softcap else None)


def _assert_attention(model: PreTrainedModel, family: Family, wanted: str, directory: Path) -> None:
    """Refuses a model that runs another attention than was asked for, or one without its family's soft-capping."""
    config: Any = model.config
    layers: Any = model.layers
    running = {config._attn_implementation, *(layer.self_attn.config._attn_implementation for layer in layers)}  # noqa: SLF001 - transformers offers no public name for it
    if running != {wanted}:
        raise ReaderError(f"reader {directory}: runs {', '.join(sorted(running))} attention; {wanted} is needed")
    if not (name := family.attention_softcap):
        return
    cap = getattr(config, name)
    for layer in layers:
        if not cap or getattr(layer.self_attn, name) != cap:
            raise ReaderError(f"reader {directory}: attention soft-capping is off; a {family.title} config sets {name}")


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", wanted):
        raise ConfigError(f"device {wanted!r}: expected auto, cpu, cuda or cuda:N")
    place = torch.device(wanted)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {wanted!r}: this torch sees {torch.cuda.device_count()} CUDA devices")
    return place


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if wanted == "bfloat16" and device.type == "cpu" and not multiplies_bfloat16():
        raise ConfigError(
            "dtype bfloat16: this CPU multiplies bfloat16 hundreds of times slower than float32; use float32"
        )
    return torch.float32 if wanted == "float32" else torch.bfloat16
