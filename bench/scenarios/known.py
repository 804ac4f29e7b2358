"""Texts whose right answers are known beforehand, and differ."""

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from scopewatch.v1 import monitor_pb2 as pb

_MOST_TEXTS = 300
_AT_ONCE = 64
_WORDS = (
    *("it", "may", "rain", "gout", "perhaps", "insulin", "the", "of", "trains", "seems", "not", "sure"),
    *("leave", "noon", "she", "said", "blue", "wolves", "or", "bread", "is"),
)
Ask = Callable[[Sequence[pb.ScoreRequest]], Awaitable[pb.BatchScoreResponse]]
Said = tuple[tuple[float, ...], tuple[tuple[int, int, str], ...]]
"""The number of tokens and the scores; the evidence."""


def candidates(count: int = 512) -> Iterator[str]:
    """Texts of random words, always the same."""
    dice = random.Random(1)
    for _ in range(count):
        yield " ".join(dice.choices(_WORDS, k=dice.randint(4, 30))).capitalize() + "."


class Known:
    """The right answer to each text, by the digest of the watchlist that it was judged by."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._answers: dict[str, dict[str, Said]] = {}

    async def learn(self, ask: Ask, texts: Iterator[str]) -> None:
        """Has texts read by a server that does nothing else, and keeps those that all watchlists so far tell apart."""
        while some := list(itertools.islice(texts, _AT_ONCE)):
            batch = await ask([pb.ScoreRequest(response=text, include_evidence=True) for text in some])
            for text, result in zip(some, batch.results, strict=True):
                reply = result.response
                self._answers.setdefault(reply.provenance.watchlist_digest, {})[text] = said(reply)
        apart = [
            set({_rounded(answer): text for text, answer in each.items()}.values()) for each in self._answers.values()
        ]
        self.texts = sorted(set.intersection(*apart))[:_MOST_TEXTS]

    def answers_by(self, digest: str) -> dict[str, Said]:
        """The right answers by the watchlist of this digest, by text."""
        return self._answers[digest]

    def is_wrong(self, request: pb.ScoreRequest, reply: pb.ScoreResponse) -> bool:
        """Whether an answer is not the one to this request."""
        known = self._answers.get(reply.provenance.watchlist_digest, {}).get(request.response)
        if known is None or reply.request_id != request.request_id:
            return True
        scores, spans = said(reply)
        close = len(scores) == len(known[0]) and all(
            abs(one - other) <= 1e-4 * max(1.0, abs(other)) for one, other in zip(scores, known[0], strict=True)
        )
        return not close or (request.include_evidence and spans != known[1])


def said(reply: pb.ScoreResponse) -> Said:
    """What tells the answer to one text from that to another."""
    spans = sorted((span.start, span.end, span.feature) for one in reply.indicators for span in one.evidence)
    return (float(reply.coverage.response_tokens), *(one.score for one in reply.indicators)), tuple(spans)


def _rounded(answer: Said) -> tuple[float, ...]:
    """Coarser than rounding errors are."""
    return tuple(round(score, 2) for score in answer[0])
