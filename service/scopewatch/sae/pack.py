"""Watch packs: the watched part of an SAE in a small file of its own.

A pack is also an SAE that can be named in a watchlist, so that it can travel without the SAE that it was made of. Dense
probes, `x . direction + bias` on every token, travel in the same way: as features whose threshold is minus infinity.

Layout: safetensors with W_enc (d_in, n), b_enc, threshold (n,) and, for gated SAEs, scale and offset (n,); under
`__metadata__`, `scopewatch_pack` (JSON): the other fields of `WatchedSae` and a digest of the arrays.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.files import atomic_write, unwritable
from scopewatch.sae.encoder import Encoder, Training, WatchedSae
from scopewatch.sae.safetensors_file import open_safetensors
from scopewatch.sae.tensors import TensorFile
from scopewatch.types import Float32
from scopewatch.watch.indicators import PROBE

SCHEMA = 1
"""Number of the layout; a pack of another one is made anew."""
_KEY = "scopewatch_pack"
_FACTS = ("format", "architecture", "hookpoint", "model", "d_sae", "digest", "files", "origin")
_MAX_NORM = "max_norm_multiple"


def is_pack(path: Path) -> bool:
    """Whether a file says that it is a watch pack."""
    return path.suffix == ".safetensors" and path.is_file() and _KEY in open_safetensors(path).metadata


def write_pack(watched: WatchedSae, file: Path) -> None:
    """Writes a pack, whole or not at all; its folder is made if there is none.

    Raises:
        SaeError: The pack cannot be written, or the SAE's features compete, so that every column is needed.
    """
    if watched.encoder.contest:
        raise SaeError(f"{file}: features of a {watched.architecture} SAE compete with all others; there is no part")
    facts = {name: getattr(watched, name) for name in _FACTS}
    facts |= {"schema": SCHEMA, "features": watched.features, "normalise": watched.encoder.normalise}
    facts |= {_MAX_NORM: watched.encoder.max_norm_multiple, "training": asdict(watched.training)}
    facts["arrays"] = _arrays_digest(watched.encoder)
    content = save(_contiguous(watched.encoder), {_KEY: json.dumps(facts, default=dict)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(content)
    except OSError as error:
        raise SaeError(unwritable(file, error)) from None


def write_probe(
    file: Path, direction: Float32, bias: Float32, *, hookpoint: str, origin: Mapping[str, str] | None = None
) -> None:
    """Writes dense probes as a pack, so that a watchlist can name them: probe i is feature i.

    Args:
        file: The file to write; its name ends in `.safetensors`.
        direction: Shape (d_in,) for one probe, (d_in, n) for n.
        bias: Shape (n,).
        hookpoint: Where the probes read, for instance layers.20.resid_post.
        origin: What the probes were made of; kept in the file.

    Raises:
        SaeError: The file cannot be written, the shapes do not fit, or a number is NaN or infinite.
    """
    n = len(bias)
    columns = direction.reshape(len(direction), -1)
    if columns.shape[1] != n:
        raise SaeError(f"{file}: {columns.shape[1]} directions and {n} biases do not make probes")
    encoder = Encoder(
        normalise="none",
        W_enc=columns.astype(np.float32),
        b_enc=bias.astype(np.float32),
        threshold=np.full(n, -np.inf, np.float32),
        watched=np.arange(n),
    )
    if not (np.isfinite(encoder.W_enc).all() and np.isfinite(encoder.b_enc).all()):
        raise SaeError(f"{file}: a probe's direction and bias must be finite numbers")
    probe = WatchedSae(
        encoder=encoder,
        features=tuple(range(n)),
        format="scopewatch",
        architecture=PROBE,
        hookpoint=hookpoint,
        model="",
        d_sae=n,
        digest=_arrays_digest(encoder),
        origin=origin or {},
    )
    write_pack(probe, file)


def load_pack(file: Path) -> WatchedSae:
    """Reads a whole pack.

    Raises:
        SaeError: The pack is damaged, was changed, or is of another schema.
    """
    opened = open_safetensors(file)
    try:
        facts: dict[str, Any] = json.loads(opened.metadata[_KEY])
        if facts["schema"] != SCHEMA:
            raise SaeError(f"{file}: a watch pack of another version of scopewatch; make it anew")
        features = tuple(int(index) for index in facts["features"])
        encoder = replace(_encoder(opened, facts["normalise"], len(features)), max_norm_multiple=facts.get(_MAX_NORM))
        if _arrays_digest(encoder) != facts["arrays"]:
            raise SaeError(f"{file}: changed since it was written; make the watch pack anew")
        # Packs of earlier versions say nothing of the training.
        told = dict(facts.get("training", {}))
        training = Training(told.get("prepend_bos"), tuple(told.get("excluded_tokens", ())))
        return WatchedSae(encoder, features, **{name: facts[name] for name in _FACTS}, training=training)
    except (ValueError, KeyError, TypeError) as error:
        raise SaeError(f"{file}: not a complete watch pack ({error!r}); make it anew") from None


def _encoder(opened: TensorFile, normalise: Any, n: int) -> Encoder:
    gated = "scale" in opened
    return Encoder(
        normalise=normalise,
        W_enc=opened["W_enc"].expect(-1, n).read(),
        b_enc=opened["b_enc"].expect(n).read(),
        threshold=opened["threshold"].expect(n).read(),
        watched=np.arange(n),
        scale=opened["scale"].expect(n).read() if gated else None,
        offset=opened["offset"].expect(n).read() if gated else None,
    )


def part_of_pack(file: Path, features: Sequence[int]) -> WatchedSae:
    """Reads some features of a pack.

    Args:
        file: The pack.
        features: Indices, in any order.

    Raises:
        NoSuchFeature: The pack lacks a feature.
        SaeError: See `load_pack`.
    """
    whole = load_pack(file)
    for feature in features:
        if feature not in whole.features:
            raise NoSuchFeature(
                f"there is no feature {feature} in the watch pack {file}; make it anew with all watched features",
                feature,
            )
    wanted = tuple(sorted(set(features)))
    place = np.searchsorted(whole.features, wanted)
    parts: dict[str, Any] = {
        name: np.ascontiguousarray(array[..., place]) for name, array in whole.encoder.arrays.items()
    }
    encoder = replace(whole.encoder, watched=np.arange(len(wanted)), **parts)
    return replace(whole, encoder=encoder, features=wanted)


def _contiguous(encoder: Encoder) -> dict[str, Float32]:
    return {name: np.ascontiguousarray(array) for name, array in encoder.arrays.items()}


def _arrays_digest(encoder: Encoder) -> str:
    total = hashlib.sha256()
    for name, array in sorted(_contiguous(encoder).items()):
        total.update(f"{name}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()
