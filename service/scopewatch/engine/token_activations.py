"""Activations of chosen features on one pair, token by token: for debugging a watchlist."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.errors import InvalidRequest
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Pair, Segment


def token_activations(
    *,
    reader: str,
    sae: SaeSource,
    features: Sequence[int],
    prompt: str,
    response: str,
    config: Config,
) -> dict[str, Any]:
    """Reads one pair and reports every token, template tokens included.

    Args:
        reader: Directory, or a hub id when no such directory exists and it looks like one.
        sae: Where the SAE is.
        features: Feature indices; rows of `activations` keep this order.
        prompt: The user's message.
        response: The response.
        config: Device, dtype and limits.

    Returns:
        `{reader, sae, hookpoint, features, tokens: [{id, text, segment, start, end}], activations}` where
        `activations[i][t]` is feature i on token t, and segment, start and end are None for template tokens.

    Raises:
        SetupError: A file is wrong.
        InvalidRequest: The pair cannot be read.
    """
    choice = SaeChoice("sae", sae, wanted=dict.fromkeys(features, "--features"))
    engine = build_engine(ReaderSource.named(reader), [choice], config)
    (tokens,) = engine.tokeniser.tokenise([Pair(prompt, response)])
    if isinstance(tokens, InvalidRequest):
        raise tokens
    (encoded,) = engine.runner([tokens.ids]).activations
    if isinstance(encoded, Exception):
        raise encoded
    dense = np.zeros((len(engine.identity.features), encoded.n_tokens), np.float32)
    dense[encoded.column, encoded.token] = encoded.value
    row_of = {feature.index: row for row, feature in enumerate(engine.identity.features)}
    in_text = tokens.segments != Segment.TEMPLATE
    texts = {Segment.PROMPT: prompt, Segment.RESPONSE: response}
    vocabulary = engine.tokeniser.token_texts(tokens.ids)
    return {
        "reader": engine.identity.reader.name,
        "sae": sae.name,
        "hookpoint": engine.identity.saes[0].hookpoint,
        "features": list(features),
        "tokens": [
            {
                "id": int(tokens.ids[t]),
                "text": texts[Segment(tokens.segments[t])][start:end] if in_text[t] else vocabulary[t],
                "segment": Segment(tokens.segments[t]).name.lower() if in_text[t] else None,
                "start": start if in_text[t] else None,
                "end": end if in_text[t] else None,
            }
            for t in range(len(tokens.ids))
            for start, end in ((int(tokens.starts[t]), int(tokens.ends[t])),)
        ],
        "activations": [dense[row_of[feature]].tolist() for feature in features],
    }
