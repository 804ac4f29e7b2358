"""Reads the watched features of an SAE, through a folder of watch packs.

Reading 64 features of a 1M-wide SAE means streaming and digesting 10 to 20 GB; the pack made of it holds half a
megabyte. Packs are written once into the folder, and found again by what they were made of.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scopewatch.errors import SaeError
from scopewatch.sae.digests import checked_digests, combined_digest
from scopewatch.sae.encoder import WatchedSae
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import SCHEMA, is_pack, load_pack, part_of_pack, write_pack
from scopewatch.sae.weights import Sae
from scopewatch.sources import FoundSae

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PackFolder:
    """Where packs are found and left."""

    path: Path
    smallest_bytes: int = 0
    """SAEs whose weights are smaller are read themselves."""


def load_watched(sae: FoundSae | Path, features: Sequence[int], *, packs: PackFolder | None = None) -> WatchedSae:
    """Reads the given features of an SAE, from a watch pack if there is one.

    Args:
        sae: An SAE as `open_sae` takes it, or a watch pack.
        features: Indices, in any order.
        packs: The folder of packs; None for neither finding nor leaving any.

    Raises:
        NoSuchFeature: An index is out of range, or not in the pack.
        SaeError: A file is wrong, or nobody says where the SAE reads.
    """
    found = FoundSae.of(sae)
    if is_pack(found.path):
        return part_of_pack(found.path, features)
    opened = open_sae(found)
    opened.assert_placed(found.hookpoint)
    pack = _pack_of(opened, features, packs) if packs else None
    if pack and pack.is_file():
        try:
            return replace(load_pack(pack), origin=found.origin)
        except SaeError as error:
            log.warning("watch pack made anew", extra={"pack": str(pack), "reason": str(error)})
    watched = replace(_read(opened, features), origin=found.origin)
    if pack:
        try:
            write_pack(watched, pack)
        except SaeError as error:
            # On a read-only file system the next start reads the SAE again, and that is all.
            log.warning("no watch pack written", extra={"reason": str(error)})
    return watched


def _read(sae: Sae, features: Sequence[int]) -> WatchedSae:
    encoder = sae.encoder(features)
    digests = checked_digests(sae)
    return WatchedSae(
        encoder=encoder,
        features=tuple(sorted(set(features))),
        format=sae.format,
        architecture=sae.architecture,
        hookpoint=sae.hookpoint,
        model=sae.model,
        d_sae=sae.d_sae,
        digest=combined_digest(digests, sae.recipe),
        files=digests,
        training=sae.training,
    )


def _pack_of(sae: Sae, features: Sequence[int], packs: PackFolder) -> Path | None:
    """The pack's place in the folder; None for SAEs that get no pack, since they are small or their features compete.

    Its name is a digest of what the pack is made of: the files by place, size and times, the features and the settings.
    """
    if sae.contest or sae.files[0].stat().st_size < packs.smallest_bytes:
        return None
    # ctime is there since copying tools, which set the time of modification, cannot set it.
    told = [(file.absolute(), file.stat()) for file in sae.files]
    files = [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for path, stat in told]
    made_of = [SCHEMA, files, sorted(set(features)), sae.recipe, sae.format, sae.architecture, sae.hookpoint]
    # Packs that earlier versions left here say nothing of it.
    made_of.append(asdict(sae.training))
    return packs.path / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()}.safetensors"
