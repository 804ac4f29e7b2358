"""Activations of chosen features on one pair, token by token: for debugging a watchlist."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.errors import InvalidRequest
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Pair, Segment, TokenisedPair


def token_activations(
    *,
    reader: ReaderSource,
    sae: SaeSource,
    features: Sequence[int],
    prompt: str,
    response: str,
    config: Config,
) -> dict[str, Any]:
    """Reads one pair and reports every token, template tokens included.

    Args:
        reader: Where the reader is, and how it is given conversations.
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
    engine = build_engine(reader, [choice], config)
    (tokens,) = engine.tokeniser.tokenise([Pair(prompt, response)])
    if isinstance(tokens, InvalidRequest):
        raise tokens
    dense = np.zeros((len(engine.identity.features), len(tokens.ids)), np.float32)
    start = 0
    for window, encoded in zip(tokens.windows, engine.runner(tokens.windows).activations, strict=True):
        if isinstance(encoded, Exception):
            raise encoded
        dense[encoded.column, encoded.token + start] = encoded.value
        start += len(window)
    row_of = {feature.index: row for row, feature in enumerate(engine.identity.features)}
    return {
        "reader": engine.identity.reader.name,
        "sae": sae.name,
        "hookpoint": engine.identity.saes[0].hookpoint,
        "features": list(features),
        "tokens": _told(tokens, prompt, response, engine.tokeniser.token_texts(tokens.ids)),
        "activations": [dense[row_of[feature]].tolist() for feature in features],
    }


def _told(tokens: TokenisedPair, prompt: str, response: str, vocabulary: Sequence[str]) -> list[dict[str, Any]]:
    """Each token with its text; those of the template as the vocabulary writes them."""
    texts = {Segment.PROMPT: prompt, Segment.RESPONSE: response}
    told: list[dict[str, Any]] = []
    for t, (token, start, end) in enumerate(zip(tokens.ids, tokens.starts, tokens.ends, strict=True)):
        segment = Segment(tokens.segments[t])
        if segment is Segment.TEMPLATE:
            told.append({"id": int(token), "text": vocabulary[t], "segment": None, "start": None, "end": None})
        else:
            place = {"segment": segment.name.lower(), "start": int(start), "end": int(end)}
            told.append({"id": int(token), "text": texts[segment][start:end], **place})
    return told
