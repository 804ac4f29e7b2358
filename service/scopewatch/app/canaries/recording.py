"""What a canary file says of a reading and of what runs."""

import hashlib
from collections.abc import Mapping

import numpy as np

import scopewatch
from scopewatch.identity import EngineIdentity, FeatureId
from scopewatch.types import CoveredActivations, TokenisedPair
from scopewatch.watch.canary_file import Fired, MadeWith

_DIGITS = 7
"""Significant digits of an activation: as many as float32 has."""


def digest_of(reading: TokenisedPair) -> str:
    """SHA-256 of the token ids of a reading and of where its windows end."""
    ends = np.cumsum(reading.window_tokens, dtype="<i4")
    return hashlib.sha256(reading.ids.astype("<i4").tobytes() + b"|" + ends.tobytes()).hexdigest()


def features_of(engine: EngineIdentity) -> dict[FeatureId, str]:
    """The names of watched features, `SAE/feature`, by what makes their numbers; the first of several names."""
    named = zip(engine.feature_ids, map(str, engine.features), strict=True)
    return dict(reversed(list(named)))


def fired_by_feature(covered: CoveredActivations, names: Mapping[FeatureId, str]) -> dict[str, Fired]:
    """Where each named feature fired, and how much.

    Args:
        covered: What fired on a reading.
        names: The names of the features.
    """
    activations, found = covered.activations, {}
    for column, feature in enumerate(covered.table.features):
        if feature in names:
            here = np.flatnonzero(activations.column == column)
            values = (float(f"{value:.{_DIGITS}g}") for value in activations.value[here].tolist())
            found[names[feature]] = Fired(tokens=tuple(activations.token[here].tolist()), values=tuple(values))
    return found


def made_with(engine: EngineIdentity, watchlists: Mapping[str, str]) -> MadeWith:
    """What runs, as a canary file says it.

    Args:
        engine: The reader and the SAEs.
        watchlists: The digests of watchlists, by name.
    """
    reader = engine.reader
    return MadeWith(
        scopewatch=scopewatch.__version__,
        reader=reader.name,
        revision=reader.revision,
        reader_digest=reader.digest,
        dtype=reader.dtype,  # type: ignore[arg-type]
        device=reader.device,
        attention=reader.attention,
        template_digest=reader.template_digest,
        rendering_digest=reader.rendering_digest,
        saes={sae.name: sae.digest for sae in engine.saes},
        watchlists=dict(watchlists),
    )
