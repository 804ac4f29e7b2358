"""The verdict log: a line a pair, by which it can be found again and told apart from others; never its text."""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence

from scopewatch.events import PairFailed, PairScored
from scopewatch.types import ScoreJob
from scopewatch.verdicts import Timings

log = logging.getLogger("scopewatch.verdicts")

MOST_FAILED_PER_S = 50
"""Pairs that got an error are logged so often a second; further ones are counted. Whoever is refused asks again, and a
service that is overloaded must not write a line for each."""
_SAID = {"pass": "passed", "flag": "flagged", "incomplete": "incomplete"}
_STAGES = {name.removesuffix("_s"): name for name in Timings.__dataclass_fields__}


class VerdictLog:
    """Logs each pair that did not pass, and a share of those that did.

    Args:
        pass_share: The share of the pairs with verdict PASS that are logged. The request's id decides, so that replicas
            and repeated requests agree.
        secret: The key of the digests of texts, so that nobody without it finds a short text by trying many. If it is
            empty, the process makes one up, and equal texts have equal digests only while it runs.
        clock: Tells the time in seconds.
    """

    def __init__(
        self, *, pass_share: float = 0.0, secret: bytes = b"", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pass_limit = int(pass_share * 2**64)
        self._key = hmac.digest(secret or os.urandom(32), b"verdict log", "sha256")
        self._clock = clock
        self._second = 0
        self._failed = self._left_out = 0
        """The pairs with an error in this second, and those that have not been logged since a line said so."""

    def scored(self, scored: Sequence[PairScored]) -> None:
        """Logs pairs that got a verdict; listens to `PairsScored`."""
        for event in scored:
            if event.pair.verdict != "pass" or self._is_of_share(event.job.request_id):
                log.info(_SAID[event.pair.verdict], extra=self._line(event))

    def failed(self, failed: Sequence[PairFailed]) -> None:
        """Logs pairs that got an error; listens to `PairsFailed`."""
        for job, reason, watchlist, total_s in failed:
            if self._has_room():
                about = {"watchlist": watchlist, "reason": reason, "timings_ms": {"total": _ms(total_s)}}
                log.info("failed", extra=self._whose(job) | about | self._about_texts(job))

    def _line(self, event: PairScored) -> dict[str, object]:
        job, pair = event
        made_by, timings = pair.judgement.made_by, pair.timings
        line = self._whose(job) | {
            "watchlist": made_by.watchlist,
            "watchlist_digest": made_by.watchlist_digest,
            "watchlists_version": pair.watchlists_version,
            "verdict": str(pair.verdict),
            "indicators": [score.name for score in pair.indicators if score.flagged and score.severity != "info"],
            "cached": pair.cached,
            "tokens": pair.coverage.tokens,
            "windows": pair.coverage.windows,
            "timings_ms": {stage: _ms(took) for stage, name in _STAGES.items() if (took := getattr(timings, name))},
        }
        if pair.verdict == "incomplete":
            line["incomplete"] = list(pair.judgement.incomplete)
        return line | self._about_texts(job)

    def _whose(self, job: ScoreJob) -> dict[str, object]:
        whose: dict[str, object] = {"request_id": job.request_id, "caller": job.caller.name}
        return whose | {"trace_id": job.trace.trace_id} if job.trace else whose

    def _about_texts(self, job: ScoreJob) -> dict[str, object]:
        """The digests of the prompt and of the response, where the caller gave them as texts."""
        pair = job.pair
        texts = {"prompt_digest": pair.prompt, "response_digest": pair.response}
        return {name: self._digest(text) for name, text in texts.items() if text}

    def _digest(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()

    def _is_of_share(self, request_id: str) -> bool:
        if not self._pass_limit:
            return False
        digest = hashlib.sha256(request_id.encode(errors="replace")).digest()
        return int.from_bytes(digest[:8]) < self._pass_limit

    def _has_room(self) -> bool:
        """Whether one more pair that got an error may be logged in this second."""
        if (second := int(self._clock())) != self._second:
            if self._left_out:
                log.info("failed pairs were left out", extra={"pairs": self._left_out})
            self._second, self._failed, self._left_out = second, 0, 0
        self._failed += 1
        self._left_out += self._failed > MOST_FAILED_PER_S
        return self._failed <= MOST_FAILED_PER_S


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
