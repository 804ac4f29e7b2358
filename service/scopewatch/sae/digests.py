"""Digests of an SAE's files: what its numbers are known by."""

import hashlib
import json
from collections.abc import Mapping

from scopewatch.errors import SaeError
from scopewatch.hub import recorded_sha256
from scopewatch.sae.weights import Sae


def checked_digests(sae: Sae) -> dict[str, str]:
    """SHA-256 of each of an SAE's files by name, compared with the hub's where they came from there.

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
    """One digest for everything that an SAE's numbers come from: the weights file's own if there is nothing else.

    Args:
        digests: SHA-256 of each file, by name.
        recipe: The settings from outside the files, see `Sae.recipe`.
    """
    if len(digests) == 1 and not recipe:
        return next(iter(digests.values()))
    return hashlib.sha256(json.dumps([sorted(digests.items()), recipe]).encode()).hexdigest()
