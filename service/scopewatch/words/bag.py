"""Hashed bags of words: a linear score of a text's words and pairs of words, whose weights lie in a small file.

Which weight a word or pair has is told by a hash of it (Weinberger et al. 2009, arXiv 0902.2206), so that the file
holds no word. A text is the vector of 1 + log(count) of each bucket that its words and pairs fall into, of length 1.

Layout of a file: safetensors with `buckets` (n,) int32, ascending, and `weights` (n,) float32; every other bucket
weighs 0. Under `__metadata__`, `scopewatch_bag` (JSON): `schema`, and `bits`, of which a bucket's number is made.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import fsum, log, sqrt
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from scopewatch.errors import WatchlistError
from scopewatch.files import atomic_write, unwritable
from scopewatch.words.find import Counted

BITS = 18
"""Of how many bits the number of a bucket is made, in bags that are fitted here."""
MAX_FILE_BYTES = 16 << 20
_MOST_BITS = 24
_SCHEMA = 1
_KEY = "scopewatch_bag"


def grams_of(words: Sequence[str]) -> list[str]:
    """The words of a text, and then the pairs of neighbouring words."""
    return [*words, *map(" ".join, pairwise(words))]


def buckets_of(words: Sequence[str], bits: int = BITS) -> list[int]:
    """The number of the bucket that each of `grams_of(words)` falls into: the last bits of the CRC-32 of its UTF-8."""
    mask = (1 << bits) - 1
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    first = list(map(crc32, encoded))
    # The checksum of a pair goes on where that of its first word ended.
    pairs = [crc32(second, crc32(b" ", before)) for before, second in zip(first, encoded[1:], strict=False)]
    return [checksum & mask for checksum in (*first, *pairs)]


def text_vector(buckets: Sequence[int]) -> dict[int, float]:
    """A text as a vector of length 1: the value of each bucket that is not 0.

    Args:
        buckets: The bucket of each of the text's words and pairs of words, from `buckets_of`.
    """
    values = {bucket: 1 + log(count) for bucket, count in Counter(buckets).items()}
    length = sqrt(sum(value * value for value in values.values()))
    return {bucket: value / length for bucket, value in values.items()}


class Bag:
    """The weights of a hashed bag of words.

    Args:
        buckets: The numbers of the buckets that weigh something, ascending, shape (n,).
        weights: The weight of each of these, shape (n,), finite.
        bits: Of how many bits the number of a bucket is made.
    """

    def __init__(self, buckets: NDArray[np.int32], weights: NDArray[np.float32], bits: int = BITS) -> None:
        self._bits = bits
        self._weights: dict[int, float] = dict(zip(buckets.tolist(), weights.tolist(), strict=True))
        facts = {_KEY: json.dumps({"schema": _SCHEMA, "bits": bits})}
        self._content = save({"buckets": buckets, "weights": weights}, facts)
        self.digest = hashlib.sha256(self._content).hexdigest()
        """SHA-256 of the file's bytes."""

    def counted(self, words: Sequence[str]) -> list[Counted]:
        """The words and pairs of words that weigh something, each with what it adds to the score of a text.

        Those that fall into one bucket share what it adds by how often they stand there.

        Args:
            words: The words of the text, as `find.find_words` gives them.
        """
        buckets = buckets_of(words, self._bits)
        weights, counts = self._weights, Counter(buckets)
        each = {
            bucket: weights[bucket] * value / counts[bucket]
            for bucket, value in text_vector(buckets).items()
            if bucket in weights
        }
        n = len(words)
        return [
            Counted(gram, place % n, place % n + 1 + place // n, each[bucket])
            for place, (gram, bucket) in enumerate(zip(grams_of(words), buckets, strict=True))
            if bucket in each
        ]

    def weight(self, gram: str) -> float:
        """The weight of a word, or of two words with a space between them; 0 if it weighs nothing."""
        (bucket,) = buckets_of([gram], self._bits)
        return self._weights.get(bucket, 0.0)

    def score(self, words: Sequence[str]) -> float:
        """The product of a text's vector and the weights; 0 of no words."""
        return fsum(each.contribution for each in self.counted(words))

    def write(self, file: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            WatchlistError: It cannot be written.
        """
        try:
            with atomic_write(file) as part:
                part.write_bytes(self._content)
        except OSError as error:
            raise WatchlistError(unwritable(file, error)) from None


def load_bag(file: Path, digest: str) -> Bag:
    """Reads the file of a bag.

    Args:
        file: The file.
        digest: SHA-256 of the bytes that it has to hold.

    Raises:
        WatchlistError: There is no such file, it holds something else, or it is none of a bag.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise WatchlistError(f"{file}: larger than {MAX_FILE_BYTES} bytes; a bag of words is a small file")
        content = file.read_bytes()
    except OSError as error:
        raise WatchlistError(f"{file}: cannot be read: {error.strerror}; copy it with its watchlist") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise WatchlistError(f"{file}: changed since the watchlist was written; calibrate again, or restore it")
    try:
        arrays = load(content)
        buckets, weights = arrays["buckets"], arrays["weights"]
        facts = _metadata(content)
        bits = int(facts["bits"])
        if facts["schema"] != _SCHEMA or not 1 <= bits <= _MOST_BITS or buckets.dtype != np.int32:
            raise ValueError("of another version of scopewatch")
        if buckets.shape != weights.shape or buckets.ndim != 1 or not np.isfinite(weights).all():
            raise ValueError("its arrays do not fit each other")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WatchlistError(f"{file}: not a bag of words ({error}); calibrate it again") from None
    return Bag(buckets, weights, bits)


def _metadata(content: bytes) -> dict[str, int]:
    """What the header of a file says beside its arrays."""
    size = int.from_bytes(content[:8], "little")
    facts: dict[str, int] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_KEY])
    return facts
