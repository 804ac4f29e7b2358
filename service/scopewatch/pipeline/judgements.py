"""What was judged lately, so that a pair that comes again is neither tokenised nor pooled nor rendered again.

The cache is still asked every time. A judgement is a pure function of the text, the watchlist and the cached value, so
it stands for as long as the cache answers with the very bytes it was made from; whatever else the cache says, the pair
goes the whole way.
"""

import hashlib
import os
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scopewatch.pipeline.lru import Lru
from scopewatch.types import Coverage, IndicatorScore, ScoreJob, Verdict

_PART_BYTES = 160
"""About what one feature's or one span's part in an indicator takes as an object."""
_ENTRY_BYTES = 1024
"""About what the rest of a judgement takes."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement and what it was made from."""

    key: bytes
    """Under which the cache keeps the activations."""
    value: bytes
    """What the cache held there."""
    verdict: Verdict
    indicators: tuple[IndicatorScore, ...]
    coverage: Coverage
    body: bytes
    """As `ScoredPair.body`."""
    moves: NDArray[np.intp]
    """As `Metrics.moves`."""


class Memory:
    """The last judgements, by a digest of the text: neither the text nor its tokens are kept.

    Args:
        max_bytes: Bound on what is kept, cached values included; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._judged = Lru[Judged](max_bytes, _size)
        self._keyed = hashlib.blake2b(digest_size=32, key=os.urandom(32))

    def name(self, job: ScoreJob, watchlist: str) -> bytes:
        """Names the judgement of a job: a keyed digest of everything the caller chose that decides it."""
        pair = job.pair
        texts = [watchlist, pair.prompt, pair.response]
        for turn in pair.history:
            texts += (turn.role, turn.content)
        # Texts read from files may hold lone surrogates.
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        shape = struct.pack(f"<?{len(parts)}Q", job.include_evidence, *map(len, parts))
        digest = self._keyed.copy()
        digest.update(b"".join((shape, *parts)))
        return digest.digest()

    def get(self, name: bytes) -> Judged | None:
        return self._judged.get(name)

    def put(self, name: bytes, judged: Judged) -> None:
        self._judged.put(name, judged)


def _size(judged: Judged) -> int:
    parts = sum(len(score.features) + len(score.evidence) for score in judged.indicators)
    return len(judged.value) + len(judged.body) + judged.moves.nbytes + parts * _PART_BYTES + _ENTRY_BYTES
