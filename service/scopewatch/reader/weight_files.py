"""A reader's weight files: which there are, and the text model's tensors in them."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from itertools import groupby
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from scopewatch.errors import ReaderError
from scopewatch.reader.families import INPUT_NORM

OWN_HEAD = "lm_head.weight"
"""Name of the output head's weights, where these are not the embedding's."""
_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# Tensors that every supported family has once, in its text model.
_ANCHOR = re.compile(rf"((?:\w+\.)*)(?:embed_tokens|layers\.0\.{INPUT_NORM}|norm)\.weight")
_LAYER = re.compile(r"layers\.(\d{1,9})\..+")


def weight_files(directory: Path) -> list[Path]:
    """The files transformers would load: `model.safetensors`, else those the index names, else all there are.

    Raises:
        ReaderError: The index cannot be read, or names a file that is not there.
    """
    index = directory / _INDEX
    if (directory / _ONE_FILE).is_file():
        return [directory / _ONE_FILE]
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    try:
        files = [directory / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ReaderError(f"reader {directory}: {_INDEX} is damaged; expected JSON with a weight_map") from None
    for file in files:
        if file.parent != directory or not file.is_file():
            raise ReaderError(f"reader {directory}: {_INDEX} names {file.name}, which is not there; download it again")
    return files


def text_weights(directory: Path, layers: int, total: int, *, head: bool = False) -> dict[str, torch.Tensor]:
    """The embedding, the final norm and the first `layers` decoder layers, named as inside the text model.

    Files write something before those names, such as `model.` or `language_model.model.`; it is found by search. The
    tensors are mapped from the files, which nothing reads until they are used.

    Args:
        directory: The reader's directory.
        layers: The number of decoder layers wanted.
        total: The number of decoder layers that the reader has by its configuration.
        head: Whether the output head comes too, as OWN_HEAD, if the files hold one.

    Raises:
        ReaderError: A file is damaged, or holds weights that are not floating-point numbers, or the files hold fewer or
            more layers.
    """
    names = {file: _names(file) for file in weight_files(directory)}
    prefix = _prefix(name for held in names.values() for name in held)
    _check_layers({name.removeprefix(prefix) for held in names.values() for name in held}, layers, total, directory)
    weights: dict[str, torch.Tensor] = {}
    for file, held in names.items():
        with safe_open(file, "pt") as stream:
            for name in held:
                if head and name.endswith(OWN_HEAD):
                    weights[OWN_HEAD] = _floating(stream.get_tensor(name), name, directory)
                elif name.startswith(prefix) and _needed(own := name.removeprefix(prefix), layers):
                    weights[own] = _floating(stream.get_tensor(name), own, directory)
    return weights


def _check_layers(names: Iterable[str], layers: int, total: int, directory: Path) -> None:
    held = 1 + max((int(layer[1]) for name in names if (layer := _LAYER.fullmatch(name))), default=-1)
    if held and not layers <= held <= total:
        raise ReaderError(
            f"reader {directory}: config.json: num_hidden_layers is {total}, the weights hold {held} layers"
        )


def _prefix(names: Iterable[str]) -> str:
    """What stands before the names of the text model's tensors."""
    found = Counter(match[1] for name in names if (match := _ANCHOR.fullmatch(name)))
    return found.most_common(1)[0][0] if found else ""


def _needed(name: str, layers: int) -> bool:
    layer = _LAYER.fullmatch(name)
    return int(layer[1]) < layers if layer else name.startswith(("embed_tokens.", "norm."))


def _floating(weight: torch.Tensor, name: str, directory: Path) -> torch.Tensor:
    if weight.is_floating_point() and weight.dtype.itemsize > 1:
        return weight
    kind = str(weight.dtype).removeprefix("torch.")
    raise ReaderError(f"reader {directory}: {name} is stored as {kind}; quantised weights are not read")


def digests(directory: Path, weights: Mapping[str, torch.Tensor]) -> Future[list[str]]:
    """SHA-256 over the configuration and the given weights: their names, types, shapes and bytes.

    There is one digest for each depth: over what no layer holds, then over that and layer 0, and so on; a head's own
    weights come last. So readers of one model that are loaded to different depths share the shallower one's digests.

    Another thread computes them. Both it and the one that loads the model read the mapped files, so that they come from
    the disk once.
    """
    found: Future[list[str]] = Future()
    ordered = sorted(weights.items(), key=lambda item: (_depth(item[0]), item[0]))

    def compute() -> None:
        try:
            found.set_result(_by_depth((directory / "config.json").read_bytes(), ordered))
        except BaseException as error:
            found.set_exception(error)

    # A daemon, so that a process that is told to leave does not wait for it.
    threading.Thread(target=compute, name="digest", daemon=True).start()
    return found


def _by_depth(configuration: bytes, ordered: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    total = hashlib.sha256(configuration)
    by_depth = []
    for _, here in groupby(ordered, key=lambda item: _depth(item[0])):
        for name, weight in here:
            own = hashlib.sha256(weight.reshape(-1).view(torch.uint8).numpy().data)
            total.update(f"{name} {weight.dtype} {tuple(weight.shape)} {own.hexdigest()}\n".encode())
        by_depth.append(total.hexdigest())
    return by_depth


def _depth(name: str) -> float:
    """The layer a tensor belongs to; -1 before the first, infinite for the head."""
    layer = _LAYER.fullmatch(name)
    return float(layer[1]) if layer else inf if name == OWN_HEAD else -1


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, "pt") as stream:
            return list(stream.keys())
    except (OSError, SafetensorError) as error:
        raise ReaderError(f"reader {file.parent}: {file.name} is damaged ({error}); download it again") from None
