"""What is read of a pair: what the cache holds of it, and for the rest the engine."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from scopewatch.errors import EngineError, NotReady, ScopewatchError
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import Cache
from scopewatch.pipeline.cached_value import CachedValues, CorruptValue
from scopewatch.pipeline.stages import Asked, Read, Tokenised
from scopewatch.pipeline.windows import Submit, encode_windows
from scopewatch.types import CoveredActivations, TokenisedPair
from scopewatch.verdicts import Timings

log = logging.getLogger(__name__)


class Reading:
    """Reads pairs whose tokens are made.

    Args:
        submit: Token ids, deadline, tokens ahead and caller in, activations out: the batcher's way to the engine.
        cache: Where activations are kept.
        values: Makes the cache's values, and reads them back.
        metrics: Counts look-ups.
    """

    def __init__(self, submit: Submit, cache: Cache, values: CachedValues, metrics: Metrics) -> None:
        self._submit = submit
        self._cache = cache
        self._values = values
        self._metrics = metrics

    def begin(
        self, unjudged: Sequence[tuple[Tokenised, tuple[bytes | None, ...]]], cache_s: float
    ) -> list[Read | asyncio.Task[Read | ScopewatchError]]:
        """What the cache held of each job's pair; where that is not all of it, the engine begins to read."""
        begun: list[Read | asyncio.Task[Read | ScopewatchError]] = []
        # What a pair waits for in its own call, so that the batcher can let other calls in between.
        ahead_tokens = 0
        for one, values in unjudged:
            timings = Timings(tokenise_s=one.tokenise_s, cache_s=cache_s)
            known = {
                number: (covered, value)
                for number, value in enumerate(values)
                if value is not None and (covered := self._unpack(one, number, value))
            }
            if len(known) == len(values):
                held, kept = zip(*known.values(), strict=True)
                begun.append(Read(one, held, kept, cached=True, timings=timings))
            else:
                begun.append(asyncio.create_task(self._read(one, known, ahead_tokens, timings)))
                ahead_tokens += sum(len(r.ids) for number, r in enumerate(one.readings) if number not in known)
        return begun

    def _unpack(self, tokenised: Tokenised, number: int, value: bytes) -> CoveredActivations | None:
        """The activations of a reading that the cache held; None where they are of no use."""
        try:
            covered = self._values.load(tokenised.keys[number], value, len(tokenised.readings[number].ids))
        except CorruptValue as problem:
            log.warning("a cached value is not what was written", extra={"problem": str(problem)})
            self._metrics.cache_read("corrupt")
            return None
        if tokenised.asked.watchlist.slots_of(covered.table) is None:
            # Written before a feature of the watchlist was watched.
            self._metrics.cache_read("miss")
            return None
        self._metrics.cache_read("hit")
        return covered

    async def _read(
        self,
        tokenised: Tokenised,
        known: Mapping[int, tuple[CoveredActivations, bytes]],
        ahead_tokens: int,
        timings: Timings,
    ) -> Read | ScopewatchError:
        """Has the engine read what the cache did not hold of a pair.

        Args:
            tokenised: The pair.
            known: The activations that the cache held, and its bytes, by the number of the reading.
            ahead_tokens: The number of tokens that the engine computes first for the same call.
            timings: What the pair took so far.
        """
        missing = [number for number in range(len(tokenised.readings)) if number not in known]
        encoding = [self._encode(tokenised.asked, tokenised.readings[number], ahead_tokens) for number in missing]
        # A task of its own for each costs something, and most pairs have one reading.
        outcomes = [await encoding[0]] if len(encoding) == 1 else await asyncio.gather(*encoding)
        found = dict(known)
        for number, encoded in zip(missing, outcomes, strict=True):
            if isinstance(encoded, ScopewatchError):
                return encoded
            key = tokenised.keys[number]
            found[number] = encoded.covered, self._values.dump(key, encoded.covered)
            self._cache.put_many({key: found[number][1]})
            timings = replace(
                timings,
                queue_s=max(timings.queue_s, encoded.queue_s),
                forward_s=timings.forward_s + encoded.forward_s,
                encode_s=timings.encode_s + encoded.encode_s,
            )
        covered, values = zip(*(found[number] for number in sorted(found)), strict=True)
        return Read(tokenised, covered, values, cached=False, timings=timings)

    async def _encode(self, asked: Asked, tokens: TokenisedPair, ahead_tokens: int) -> Encoded | ScopewatchError:
        try:
            job = asked.job
            encoded = await encode_windows(tokens.windows, self._submit, job.deadline_s, ahead_tokens, job.caller)
        except ScopewatchError as error:
            return error
        except Exception:
            log.exception("unexpected failure while encoding")
            return EngineError("the reader failed on this pair")
        if asked.watchlist.slots_of(encoded.covered.table) is None:
            return NotReady("the watchlists are being replaced; try again")
        return encoded
