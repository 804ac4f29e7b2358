"""Makes random pairs of a wanted length that have no beginning in common, so that no cache helps to read them."""

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair, TokenisedPair

_WORDS = (
    "river garden copper seven window bread winter candle doctor market yellow engine pepper bridge silver train "
    "apple letter cloud hammer paper summer island kitchen table music forest button coffee mirror ladder pocket "
    "blood sugar heart fever salt stone glass metal water light sound north south early later maybe never often "
    "always almost quite rather under above between before after again because although where which whose about "
    "measure answer question report number reason result change carry follow begin finish open close turn leave"
)


class RandomPairs:
    """Makes pairs for one tokeniser; every pair is new.

    Args:
        tokeniser: The engine's tokeniser.
        seed: The seed of the random numbers; another one gives other pairs.
    """

    def __init__(self, tokeniser: Tokeniser, seed: int = 0) -> None:
        self._tokeniser = tokeniser
        self._draw = random.Random(seed)  # noqa: S311 - nothing secret
        self._words = _WORDS.split()
        short, long = (self._length(self._pair(words)) for words in (64, 256))
        self._per_word = (long - short) / (256 - 64)
        self._template = short - 64 * self._per_word
        (pool,) = self._tokenised([self._pair(512)])
        self._pool, self._ids = pool.ids, np.random.default_rng(seed)

    def pairs(self, count: int, tokens: int) -> list[Pair]:
        """`count` new pairs of about `tokens` tokens each, template included; a quarter of the text is the prompt."""
        words = max(2, round((tokens - self._template) / self._per_word))
        return [self._pair(words) for _ in range(count)]

    def token_ids(self, count: int, tokens: int) -> list[NDArray[np.int32]]:
        """Token ids of `count` new texts of exactly `tokens` tokens each, drawn from those of a pair.

        To tokenise as many short texts takes about half as long as a GPU takes to read them.
        """
        return list(self._ids.choice(self._pool, (count, tokens)).astype(np.int32))

    def _pair(self, words: int) -> Pair:
        prompt = words // 4
        drawn = self._draw.choices(self._words, k=words)
        return Pair(" ".join(drawn[:prompt]), " ".join(drawn[prompt:]))

    def _length(self, pair: Pair) -> int:
        """The number of a pair's tokens before truncation."""
        (tokenised,) = self._tokenised([pair])
        coverage = tokenised.coverage
        return coverage.tokens + coverage.prompt_tokens_dropped + coverage.response_tokens_dropped

    def _tokenised(self, pairs: Sequence[Pair]) -> list[TokenisedPair]:
        found = self._tokeniser.tokenise(pairs)
        for outcome in found:
            if isinstance(outcome, Exception):
                raise outcome
        return [pair for pair in found if isinstance(pair, TokenisedPair)]
