"""Shadow watchlists: they judge a share of the pairs from the same activations, after the caller has its judgement.

They judge on a thread of their own, so that no reply waits for them, and what goes wrong there reaches no caller.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from scopewatch.metrics.shadow_counts import ShadowCounts
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Judged
from scopewatch.types import Cleaning, ScoreJob

log = logging.getLogger(__name__)

_MOST_WAITING = 256
"""Pairs that may wait to be judged; each holds its activations."""


class Shadows:
    """Has shadow watchlists judge a share of the pairs, for metrics alone.

    Args:
        share: The share of the pairs, 0 to 1. A request id is always in it or never, so a pair that is tried again is
            not chosen anew.
        secret: Decides which request ids are in the share, on every replica that has it alike; if it is empty, this
            process decides alone. Whoever does not know it cannot choose ids that are in the share or are not.
        metrics: Counts what the shadows say.
    """

    def __init__(self, share: float, secret: bytes, metrics: ShadowCounts) -> None:
        self._share = share
        key = hashlib.sha256(secret).digest() if secret else os.urandom(32)
        self._keyed = hashlib.blake2b(digest_size=8, key=key, person=b"shadow")
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadows")
        self._places = BoundedSemaphore(_MOST_WAITING)
        self._failed: set[bytes] = set()
        """Digests of the shadows of which a failure was logged."""

    def judge_later(
        self, shadows: Sequence[CompiledWatchlist], judged: Sequence[Judged], recalled: Sequence[ScoreJob]
    ) -> None:
        """Has shadows judge those pairs of a call that are in the share; returns at once.

        Args:
            shadows: The shadows of the set that the call began with.
            judged: The pairs that were judged, with their activations.
            recalled: The jobs whose judgement was remembered; their activations are not at hand.
        """
        chosen = [done for done in judged if self._chooses(done.asked.job)]
        self._metrics.skipped("remembered", len(shadows) * sum(map(self._chooses, recalled)))
        for done in chosen:
            if self._places.acquire(blocking=False):
                self._thread.submit(self._judge_all, shadows, done)
            else:
                self._metrics.skipped("busy", len(shadows))

    def close(self) -> None:
        """Drops the pairs that wait, and ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _chooses(self, job: ScoreJob) -> bool:
        digest = self._keyed.copy()
        digest.update(job.request_id.encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()) < self._share * 2**64

    def _judge_all(self, shadows: Sequence[CompiledWatchlist], done: Judged) -> None:
        try:
            for shadow in shadows:
                try:
                    self._judge(shadow, done)
                except Exception as error:
                    self._fail(shadow, error)
        finally:
            self._places.release()

    def _judge(self, shadow: CompiledWatchlist, done: Judged) -> None:
        _, readings, _, _ = done.read.tokenised
        own = _readings(shadow.source.cleaned, done.asked.watchlist.source.cleaned)
        covered = done.read.covered
        if own is None:
            self._metrics.skipped("reading")
        elif any(shadow.slots_of(one.table) is None for one in covered):
            # The cache held activations that were made before the shadow was there.
            self._metrics.skipped("features")
        else:
            self._metrics.judged(done.judgement, judge(shadow, readings[own], covered[own], max_evidence=0))

    def _fail(self, shadow: CompiledWatchlist, error: Exception) -> None:
        self._metrics.skipped("failed")
        if shadow.digest not in self._failed:
            self._failed.add(shadow.digest)
            # Its message and traceback may quote the text.
            told = {"watchlist": shadow.source.name, "error": type(error).__name__}
            log.error("a shadow watchlist failed on a pair", extra=told)


def _readings(wanted: Cleaning, had: Cleaning) -> slice | None:
    """Which of the readings that one kind of cleaning had are those that another one wants; None if they are not there.

    Where texts are read both ways, the plain reading comes first; a text that cleaning leaves as it is is read once.
    """
    if wanted is had:
        return slice(None)
    if had is Cleaning.BESIDE:
        return slice(0, 1) if wanted is Cleaning.NONE else slice(-1, None)
    return None
