"""Whether a text's numbers are the same whatever it is read with, as reader and encoders show it (decision 0053)."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.passes import Passes, untouched
from scopewatch.engine.watching import Watching
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader
from scopewatch.reader.prefixes import Reading
from scopewatch.reader.products import product_weights
from scopewatch.types import TokenIds

log = logging.getLogger(__name__)

_COMPANIES = {"cpu": [(45, 10)], "cuda": [(0, 1000), (517, 90), (4000, 3000)]}
"""How many tokens stand before the text that is read again and again, and how many behind it."""
_TOKENS = {"cpu": 21, "cuda": 300}
_LAYERS = {"cpu": 2, "cuda": 1 << 20}
"""The most layers that are read. All have products of the same shapes, and a CPU takes its time."""


@torch.inference_mode()
def confirmed(reader: Reader) -> Reader:
    """The same reader, known as invariant only if random tokens are read to the same last bit alone and in company.

    Args:
        reader: A reader that should be, by what is known of its parts; any other comes back as it is.
    """
    layers = min(len(reader.layers), _LAYERS[reader.device.type])
    if not reader.identity.batch_invariant or not layers:
        return reader
    rng = np.random.default_rng(0)
    text, *others = (
        rng.integers(0, reader.vocabulary, tokens).astype(np.int32)
        for tokens in (_TOKENS[reader.device.type], *np.ravel(_COMPANIES[reader.device.type]))
    )
    try:
        alone = _read(reader, [text], 0, layers)
        alike = all(
            torch.equal(alone, _read(reader, [one for one in row if len(one)], bool(len(row[0])), layers))
            for row in ([before, text, behind] for before, behind in zip(others[::2], others[1::2], strict=True))
        )
        alike = alike and (reader.head is None or _head_is_alike(reader))
    except torch.OutOfMemoryError:
        alike = False
    if alike:
        return reader
    log.warning("a text was read to other numbers in company than alone; a pair's last digits may vary")
    return replace(reader, identity=replace(reader.identity, batch_invariant=False))


def _read(reader: Reader, texts: Sequence[TokenIds], number: int, layers: int) -> torch.Tensor:
    """What one of some texts gives at the last of so many layers, (tokens, d)."""
    place = Hookpoint(layers - 1)
    row = Passes(reader).read([Reading(ids, ()) for ids in texts], {place: untouched})
    return row.tapped[place][row.packing.texts[number].place]


def _head_is_alike(reader: Reader) -> bool:
    """Whether the head says the same of a token at several places."""
    assert reader.head
    made = torch.Generator(reader.device).manual_seed(0)
    states = torch.randn((50, reader.hidden_size), generator=made, device=reader.device).to(reader.head.weight.dtype)
    ids = torch.arange(50, device=reader.device)
    return torch.equal(reader.head(states, ids)[29:], reader.head(states[29:], ids[29:]))


def as_settled(watching: Watching, reader: Reader) -> Watching:
    """The same, told of as invariant only if the reader and all encoders are.

    Args:
        watching: What is to be watched.
        reader: The reader that will do so.
    """
    told = watching.identity.reader
    told = replace(told, batch_invariant=told.batch_invariant and _encoders_are_alike(watching, reader))
    return replace(watching, identity=replace(watching.identity, reader=told))


def _encoders_are_alike(watching: Watching, reader: Reader) -> bool:
    """Whether encoders give an activation the same numbers in any company; a GPU looks for row counts that do."""
    if reader.row_counts is None:
        # On a CPU contests are decided by products that are added up otherwise for another number of rows.
        return reader.device.type == "cpu" and not any(placed.encoder.contest for placed in watching.encoders)
    hookpoints = {placed.hookpoint for placed in watching.encoders}
    here = [[placed.encoder for placed in watching.encoders if placed.hookpoint == one] for one in hookpoints]
    weights = [pair for encoders in here for pair in product_weights(HookpointEncoder(encoders))]
    on_device = [
        (weight.to(reader.device), bias if bias is None else bias.to(reader.device)) for weight, bias in weights
    ]
    return reader.row_counts.settle(on_device)
