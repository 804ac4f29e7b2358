"""What a whole SAE makes of a pair: its strongest features, and what of the activations it leaves unexplained."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from scopewatch.engine.dictionary import not_finite
from scopewatch.engine.encoder import reconstruction
from scopewatch.engine.heard import Heard
from scopewatch.engine.looks import Looked, SegmentTop, Steps
from scopewatch.engine.strongest import Strongest
from scopewatch.engine.whole import WholeDictionary, WholeSlab
from scopewatch.types import Float32, Int8, Segment, TokenisedPair

_PRODUCTS = {"cpu": 1 << 29, "cuda": 1 << 35}
"""Multiplications of a step by device, which then takes some hundredths of a second at most."""
_TILE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 22}
"""The most activations of features that exist at once, by device: tokens times features."""


@dataclass(slots=True)
class _SegmentTally:
    """What the features of the slabs so far did on one segment; the best of them."""

    best: Strongest
    """One row: by their peaks."""
    total: torch.Tensor
    """Shape (1, k), float64: the sums of their activations."""
    times: torch.Tensor
    """Shape (1, k): on how many tokens each fired."""


class _SlabTally:
    """What the features of one slab do on one segment: peak, sum, and number of tokens of each; shape (1, features)."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.peak = torch.zeros((1, features), device=device)
        self.total = torch.zeros((1, features), dtype=torch.float64, device=device)
        self.times = torch.zeros((1, features), dtype=torch.int64, device=device)

    def add(self, fired: torch.Tensor) -> None:
        self.peak = torch.maximum(self.peak, fired.amax(dim=0))
        self.total += fired.sum(dim=0, dtype=torch.float64)
        self.times += (fired != 0).sum(dim=0)


class WholeLook:
    """Looks at one pair with one dictionary.

    Args:
        name: What the watchlists call the SAE.
        dictionary: The whole of it.
        tokens: The pair.
        heard: What the reader gives on it at the dictionary's places.
        top: How many features are told of each segment and of each token, at most.
    """

    def __init__(self, name: str, dictionary: WholeDictionary, tokens: TokenisedPair, heard: Heard, top: int) -> None:
        self._name = name
        self._dictionary = dictionary
        self._pair_tokens = len(tokens.ids)
        texts = np.flatnonzero(tokens.segments != Segment.TEMPLATE)
        self._positions = texts[np.argsort(tokens.segments[texts], kind="stable")]
        """Where the tokens of the caller's texts stand in the pair, segment by segment; n of them."""
        self._segments = _places(tokens.segments[self._positions])
        self._x = heard.activations[dictionary.reads][self._positions]
        self._median = heard.median[dictionary.reads][self._positions]
        self._y = None if dictionary.writes is None else heard.activations[dictionary.writes][self._positions]
        device, n = self._x.device, len(self._x)
        k = min(top, dictionary.sae.d_sae)
        self._of_tokens = Strongest(n, k, device)
        self._of_segments = {
            segment: _SegmentTally(
                Strongest(1, k, device),
                torch.zeros((1, k), dtype=torch.float64, device=device),
                torch.zeros((1, k), dtype=torch.int64, device=device),
            )
            for segment in self._segments
        }
        self._decoded = None if self._y is None else dictionary.b_out.repeat(n, 1)
        self._fired = 0

    def steps(self) -> Steps[Looked]:
        """Looks, a tile of tokens and features at a time.

        Raises:
            SaeError: An array of the SAE is damaged.
            EngineError: Activations are not finite.
        """
        contest = yield from self._contest()
        for slab in self._dictionary.slabs():
            for segment, place in self._segments.items():
                tally = _SlabTally(slab.features, self._x.device)
                for block in self._blocks(place, slab.features):
                    self._add(slab, block, tally, contest)
                    yield
                self._close(tally, slab, self._of_segments[segment])
        return self._result()

    def _contest(self) -> Steps[Strongest | None]:
        """Who wins where the features of the whole dictionary compete; None where they do not."""
        if not self._dictionary.winners:
            return None
        contest = Strongest(len(self._x), self._dictionary.winners, self._x.device)
        for slab in self._dictionary.slabs():
            for block in self._blocks(slice(0, len(self._x)), slab.features):
                assert slab.pre_activations
                contest.add(slab.pre_activations(self._x[block]), slab.start, block)
                yield
        return contest

    def _add(self, slab: WholeSlab, block: slice, tally: _SlabTally, contest: Strongest | None) -> None:
        """Adds what the features of a slab do on a block of one segment's tokens."""
        fired: torch.Tensor = slab.encoder(self._x[block], self._median[block])
        if contest:
            fired = torch.where(contest.holds(slab.start, fired.shape[1], block), fired, 0.0)
        self._of_tokens.add(fired, slab.start, block)
        tally.add(fired)
        if self._decoded is not None and slab.W_dec is not None:
            self._decoded[block] += fired @ slab.W_dec

    def _close(self, slab: _SlabTally, whole: WholeSlab, segment: _SegmentTally) -> None:
        """Lets the features of a slab, of which all is known now, compete with those before."""
        if not torch.isfinite(slab.total).all():
            raise not_finite()
        self._fired += int(slab.times.sum())
        place = segment.best.add(slab.peak, whole.start)
        segment.total = torch.cat([segment.total, slab.total], dim=1).gather(1, place)
        segment.times = torch.cat([segment.times, slab.times], dim=1).gather(1, place)

    def _result(self) -> Looked:
        unexplained, shares, problem = self._unexplained()
        columns, values = self._of_tokens.columns.cpu().numpy(), self._of_tokens.values.cpu().numpy()
        feature = np.full((self._pair_tokens, columns.shape[1]), -1, np.int32)
        value = np.zeros((self._pair_tokens, columns.shape[1]), np.float32)
        feature[self._positions], value[self._positions] = columns, values
        return Looked(
            sae=self._name,
            d_sae=self._dictionary.sae.d_sae,
            hookpoint=str(self._dictionary.reads),
            feature=feature,
            value=value,
            segments=tuple(self._top(segment) for segment in self._segments),
            l0=self._fired / max(1, len(self._x)),
            unexplained=unexplained,
            shares=shares,
            problem=problem,
        )

    def _top(self, segment: Segment) -> SegmentTop:
        tally, place = self._of_segments[segment], self._segments[segment]
        fired = tally.best.columns[0] >= 0
        return SegmentTop(
            segment=segment,
            feature=tally.best.columns[0, fired].cpu().numpy().astype(np.intp),
            peak=tally.best.values[0, fired].cpu().numpy(),
            mean=(tally.total[0, fired] / (place.stop - place.start)).float().cpu().numpy(),
            tokens=tally.times[0, fired].cpu().numpy().astype(np.intp),
        )

    def _unexplained(self) -> tuple[Float32 | None, dict[Segment, float], str]:
        """What the SAE leaves unexplained of each token and of each segment, and why that is not known."""
        dictionary = self._dictionary
        if self._decoded is None or self._y is None:
            return None, {}, dictionary.problem
        left = self._y - reconstruction(self._decoded, self._x, dictionary.sae, dictionary.W_skip)
        if not torch.isfinite(left).all():
            return None, {}, f"{dictionary.sae.files[0]}: its decoder holds NaN or infinity; download it again"
        above = left.square().sum(dim=1, dtype=torch.float64)
        below = torch.zeros_like(above)
        shares = {}
        for segment, place in self._segments.items():
            here = self._y[place].double()
            below[place] = (here - here.mean(dim=0)).square().sum(dim=1)
            if variance := float(below[place].sum()):
                shares[segment] = float(above[place].sum()) / variance
        unexplained = np.zeros(self._pair_tokens, np.float32)
        unexplained[self._positions] = torch.where(below > 0, above / below, 1.0).float().cpu().numpy()
        return unexplained, shares, ""

    def _blocks(self, place: slice, features: int) -> Iterator[slice]:
        """Tokens of some place, as many at a time as make one step with so many features."""
        device = self._x.device.type
        elements = min(_TILE_ELEMENTS[device], _PRODUCTS[device] // self._dictionary.sae.d_in)
        step = max(1, elements // features)
        for start in range(place.start, place.stop, step):
            yield slice(start, min(place.stop, start + step))


def _places(segments: Int8) -> dict[Segment, slice]:
    """Where each segment's tokens stand among tokens that are ordered by segment."""
    found, starts = np.unique(segments, return_index=True)
    edges = [*starts.tolist(), len(segments)]
    return {Segment(segment): slice(*edge) for segment, edge in zip(found.tolist(), pairwise(edges), strict=True)}
