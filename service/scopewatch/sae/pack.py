"""Watch packs: the watched part of an SAE in a small file of its own.

Reading 64 features of a 1M-wide SAE means streaming and digesting 10 to 20 GB; the pack made of it holds half a
megabyte. Packs are written once into a folder and found again by what they were made of. A pack is also an SAE that
can be named in a watchlist, so that it can travel without the SAE. Dense probes, `x . direction + bias` on every token,
travel in the same way: as features whose threshold is minus infinity.

Layout: safetensors with W_enc (d_in, n), b_enc, threshold (n,) and, for gated SAEs, scale and offset (n,); under
`__metadata__`, `scopewatch_pack` (JSON): the other fields of `WatchedSae` and a digest of the arrays.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.hub import recorded_sha256
from scopewatch.sae.open import open_sae
from scopewatch.sae.tensors import Float32, open_safetensors
from scopewatch.sae.weights import Encoder, Magnitude, Sae
from scopewatch.watch.indicators import PROBE

log = logging.getLogger(__name__)

_SCHEMA = 1
_KEY = "scopewatch_pack"
_FACTS = ("format", "architecture", "hookpoint", "model", "d_sae", "digest", "files", "origin")


@dataclass(frozen=True, slots=True)
class PackFolder:
    """Where packs are found and left."""

    path: Path
    smallest_bytes: int = 0
    """SAEs whose weights are smaller are read themselves."""


@dataclass(frozen=True, slots=True)
class WatchedSae:
    """The watched part of an SAE, and what is known of the whole."""

    encoder: Encoder
    features: tuple[int, ...]
    """Watched feature indices, ascending: the columns `encoder.watched` names."""
    format: str
    architecture: str
    hookpoint: str
    """As its publisher writes it; empty when the files do not say."""
    model: str
    d_sae: int
    digest: str
    """SHA-256 of the weights file, or over those of all files and the settings that its numbers come from."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file, by name."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Hub repository and commit, where it came from there."""

    @property
    def d_in(self) -> int:
        return int(self.encoder.W_enc.shape[0])


def load_watched(
    path: Path,
    features: Sequence[int],
    *,
    norm_factor: float | None = None,
    k: int | None = None,
    origin: Mapping[str, str] | None = None,
    packs: PackFolder | None = None,
) -> WatchedSae:
    """Reads the given features of an SAE, from a watch pack if there is one.

    Args:
        path: An SAE as `open_sae` takes it, or a watch pack.
        features: Indices, any order.
        norm_factor: See `open_sae`.
        k: See `open_sae`.
        origin: Where on the hub it came from.
        packs: None for neither finding nor leaving packs.

    Raises:
        NoSuchFeature: An index is out of range, or not in the pack.
        SaeError: A file is wrong.
    """
    if is_pack(path):
        return _chosen(load_pack(path), features, path)
    sae = open_sae(path, norm_factor=norm_factor, k=k)
    pack = None
    if packs and not sae.contest and sae.files[0].stat().st_size >= packs.smallest_bytes:
        pack = packs.path / f"{_fingerprint(sae, features)}.safetensors"
    if pack and pack.is_file():
        try:
            return replace(load_pack(pack), origin=origin or {})
        except SaeError as error:
            log.warning("watch pack made anew", extra={"pack": str(pack), "reason": str(error)})
    encoder = sae.encoder(features)
    digests = checked_digests(sae)
    watched = WatchedSae(
        encoder=encoder,
        features=tuple(sorted(set(features))),
        format=sae.format,
        architecture=sae.architecture,
        hookpoint=sae.hookpoint,
        model=sae.model,
        d_sae=sae.d_sae,
        digest=combined_digest(digests, sae.recipe),
        files=digests,
        origin=origin or {},
    )
    if pack:
        try:
            write_pack(watched, pack)
        except SaeError as error:
            # A read-only file system: the next start reads the SAE again, and that is all.
            log.warning("no watch pack written", extra={"reason": str(error)})
    return watched


def checked_digests(sae: Sae) -> dict[str, str]:
    """SHA-256 of each of an SAE's files, compared with the hub's where they came from there.

    Raises:
        SaeError: A file is not what the hub sent.
    """
    digests = sae.digests()
    for file in sae.files:
        told = recorded_sha256(file)
        if told and told != digests[file.name]:
            raise SaeError(f"{file}: damaged, its SHA-256 is not the one the hub gave; delete it and download it again")
    return digests


def combined_digest(digests: Mapping[str, str], recipe: str = "") -> str:
    """One digest for all that an SAE's numbers come from: the weights file's own if there is nothing else."""
    if len(digests) == 1 and not recipe:
        return next(iter(digests.values()))
    return hashlib.sha256(json.dumps([sorted(digests.items()), recipe]).encode()).hexdigest()


def is_pack(path: Path) -> bool:
    """Whether a file says it is a watch pack."""
    return path.suffix == ".safetensors" and path.is_file() and _KEY in open_safetensors(path).metadata


def write_pack(watched: WatchedSae, file: Path) -> None:
    """Writes a pack; a reader sees all of it or nothing.

    Raises:
        SaeError: It cannot be written, or the SAE's features compete, so that every column is needed.
    """
    if watched.encoder.contest:
        raise SaeError(f"{file}: features of a {watched.architecture} SAE compete with all others; there is no part")
    arrays = _arrays(watched.encoder)
    facts = {name: getattr(watched, name) for name in _FACTS}
    facts |= {"schema": _SCHEMA, "features": watched.features, "normalise": watched.encoder.normalise}
    facts["arrays"] = _arrays_digest(arrays)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(save(arrays, {_KEY: json.dumps(facts, default=dict)}))
        part.replace(file)
    except OSError as error:
        raise SaeError(f"{file}: cannot be written: {error.strerror or error}") from None


def write_probe(
    file: Path, direction: Float32, bias: Float32, *, hookpoint: str, origin: Mapping[str, str] | None = None
) -> None:
    """Writes dense probes as a pack, so that a watchlist can name them: probe i is feature i.

    Args:
        file: Where to; its name ends in `.safetensors`.
        direction: Shape (d_in,) or (d_in, n).
        bias: Shape (n,).
        hookpoint: Where they read, for instance layers.20.resid_post.
        origin: What they were made of; kept beside them.

    Raises:
        SaeError: It cannot be written, the shapes do not fit, or a number is NaN or infinite.
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
        magnitude=None,
        contest=None,
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
        digest=_arrays_digest(_arrays(encoder)),
        origin=origin or {},
    )
    write_pack(probe, file)


def load_pack(file: Path) -> WatchedSae:
    """Reads a whole pack.

    Raises:
        SaeError: It is damaged, was changed, or is of another schema.
    """
    opened = open_safetensors(file)
    try:
        facts: dict[str, Any] = json.loads(opened.metadata[_KEY])
        if facts["schema"] != _SCHEMA:
            raise SaeError(f"{file}: a watch pack of another version of scopewatch; make it anew")
        features = tuple(int(index) for index in facts["features"])
        n = len(features)
        encoder = Encoder(
            normalise=facts["normalise"],
            W_enc=opened["W_enc"].expect(-1, n).read(),
            b_enc=opened["b_enc"].expect(n).read(),
            threshold=opened["threshold"].expect(n).read(),
            magnitude=Magnitude(opened["scale"].expect(n).read(), opened["offset"].expect(n).read())
            if "scale" in opened
            else None,
            contest=None,
            watched=np.arange(n),
        )
        if _arrays_digest(_arrays(encoder)) != facts["arrays"]:
            raise SaeError(f"{file}: changed since it was written; make the watch pack anew")
        return WatchedSae(encoder, features, **{name: facts[name] for name in _FACTS})
    except (ValueError, KeyError, TypeError) as error:
        raise SaeError(f"{file}: not a complete watch pack ({error!r}); make it anew") from None


def _chosen(whole: WatchedSae, features: Sequence[int], file: Path) -> WatchedSae:
    for feature in features:
        if feature not in whole.features:
            raise NoSuchFeature(
                f"there is no feature {feature} in the watch pack {file}; make it anew with all watched features",
                feature,
            )
    wanted = tuple(sorted(set(features)))
    place = np.searchsorted(whole.features, wanted)
    e = whole.encoder
    encoder = replace(
        e,
        W_enc=np.ascontiguousarray(e.W_enc[:, place]),
        b_enc=e.b_enc[place],
        threshold=e.threshold[place],
        magnitude=Magnitude(e.magnitude.scale[place], e.magnitude.offset[place]) if e.magnitude else None,
        watched=np.arange(len(wanted)),
    )
    return replace(whole, encoder=encoder, features=wanted)


def _arrays(encoder: Encoder) -> dict[str, Float32]:
    arrays = {"W_enc": encoder.W_enc, "b_enc": encoder.b_enc, "threshold": encoder.threshold}
    if encoder.magnitude:
        arrays |= {"scale": encoder.magnitude.scale, "offset": encoder.magnitude.offset}
    return {name: np.ascontiguousarray(values) for name, values in arrays.items()}


def _arrays_digest(arrays: Mapping[str, Float32]) -> str:
    total = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        total.update(f"{name}{values.shape}".encode() + values.tobytes())
    return total.hexdigest()


def _fingerprint(sae: Sae, features: Sequence[int]) -> str:
    """What a pack is made of: the files by place, size and times, the features and the settings.

    The time of change is one that copying tools cannot set.
    """
    told = [(file.absolute(), file.stat()) for file in sae.files]
    files = [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for path, stat in told]
    made_of = [_SCHEMA, files, sorted(set(features)), sae.recipe, sae.format, sae.architecture, sae.hookpoint]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
