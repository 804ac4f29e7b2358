"""Judgements made lately, so that a pair that comes again is neither tokenised nor pooled again.

The cache is still asked every time. A judgement is a pure function of the text, the watchlist and the cached value, so
it stands for as long as the cache answers with the very bytes it was made from; whatever else the cache says, the pair
goes the whole way.
"""

import hashlib
import os
import struct
from dataclasses import dataclass

from scopewatch.pipeline.lru import Lru
from scopewatch.types import ScoreJob
from scopewatch.verdicts import Judgement

_PART_BYTES = 300
"""About what one feature's or one span's part in an indicator takes: as an object, and serialised in a door."""
_ENTRY_BYTES = 2048
"""About what the rest of a judgement takes, with what doors and metrics derive from it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A judgement and what it was made from."""

    keys: tuple[bytes, ...]
    """The keys under which the cache keeps the activations of each reading."""
    values: tuple[bytes, ...]
    """What the cache held there."""
    judgement: Judgement


class Judgements:
    """The last judgements, by a digest of what made them: neither the text nor its tokens are kept.

    Args:
        max_bytes: Bound on what is kept, cached values included; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._remembered = Lru[Remembered](max_bytes, _size)
        self._keyed = hashlib.blake2b(digest_size=32, key=os.urandom(32))

    def name(self, job: ScoreJob, watchlist_digest: bytes) -> bytes:
        """Names the judgement of a job: a keyed digest of everything that decides it but the cached value.

        Args:
            job: The pair, whose it is, and whether evidence is wanted.
            watchlist_digest: The digest of the watchlist as it is bound to the engine; a name would not do, for it may
                be given to another watchlist.
        """
        pair = job.pair
        inputs = pair.inputs
        texts = [job.caller.tenant, pair.prompt, pair.response]
        texts += (inputs.date, inputs.tools, inputs.documents, inputs.arguments)
        for turn in pair.history:
            texts += (turn.role, turn.content, turn.fields)
        # Texts read from files may hold lone surrogates.
        parts = [watchlist_digest] + [text.encode("utf-8", "surrogatepass") for text in texts]
        parts += [repr(ids).encode() if ids else b"" for ids in (pair.prompt_token_ids, pair.response_token_ids)]
        shape = struct.pack(f"<?{len(parts)}Q", job.include_evidence, *map(len, parts))
        digest = self._keyed.copy()
        digest.update(b"".join((shape, *parts)))
        return digest.digest()

    def get(self, name: bytes) -> Remembered | None:
        """The judgement of this name, if it is still kept."""
        return self._remembered.get(name)

    def put(self, name: bytes, remembered: Remembered) -> None:
        """Keeps a judgement, and forgets those that were used longest ago until it fits."""
        self._remembered.put(name, remembered)


def _size(remembered: Remembered) -> int:
    scores = remembered.judgement.indicators
    parts = sum(len(score.features) + len(score.evidence) for score in scores)
    return sum(map(len, remembered.values)) + parts * _PART_BYTES + _ENTRY_BYTES
