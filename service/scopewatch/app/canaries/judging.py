"""The canary pairs: judged by what runs, and before other watchlists take its place."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.app.canaries.comparing import Verdict, check_covers, contradictions, verdict
from scopewatch.app.canaries.hearing import Heard, Hearing
from scopewatch.app.canaries.pairs import PAIRS, PASS_TOKENS
from scopewatch.config import BUNDLED_WATCHLIST, WATCHLISTS_BY_NAME, Config
from scopewatch.errors import EngineDied, NotReady, ScopewatchError, WatchlistError
from scopewatch.files import expanded
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.watch.canary_file import Recorded, load_canaries
from scopewatch.watch.watchlist import Watchlist

if TYPE_CHECKING:
    from scopewatch.engine.watching import Watching

log = logging.getLogger(__name__)

_SHIPPED = "canaries.json"
"""What the canaries are called that come with a watchlist of the package."""


def recorded_canaries(config: Config, watchlists: Sequence[Watchlist]) -> Recorded | None:
    """The canaries that settings name, or those that come with a watchlist of the package; None where there are none.

    Raises:
        DataError: The file cannot be read, or is none of canaries.
    """
    ours = {file.resolve() for file in (BUNDLED_WATCHLIST, *WATCHLISTS_BY_NAME.values())}
    shipped = [one.file.with_name(_SHIPPED) for one in watchlists if one.file.resolve() in ours]
    file = expanded(Path(config.canaries)) if config.canaries else next(iter(shipped), None)
    return load_canaries(file) if file else None


class Canaries:
    """Judges the canary pairs: those that were recorded, or where there are none, those of the program.

    Args:
        hearing: Has watchlists judge them.
    """

    def __init__(self, hearing: Hearing) -> None:
        self.hearing = hearing

    async def judge(self, recorded: Recorded, running: Callable[[], WatchlistSet]) -> Verdict:
        """Has what runs judge the pairs, each text in its turn.

        Args:
            recorded: The pairs.
            running: Gives the watchlists that run now.

        Raises:
            WatchlistError: A score is no finite number.
            EngineError: The engine fails on a pair.
        """
        document, watchlists = recorded.document, running()
        try:
            heard = await self.hearing.hear(
                document.recorded_pairs,
                list(watchlists.by_name.values()),
                self.hearing.in_turns,
                pass_tokens=document.pass_tokens,
            )
        except NotReady:
            if running() is watchlists:
                raise
            # They were replaced meanwhile, and what they read is not watched any more.
            return await self.judge(recorded, running)
        return verdict(document, heard, watchlists.engine)

    async def of_running(self, running: WatchlistSet, watching: "Watching", recorded: Recorded | None) -> Heard:
        """What the watchlists that run say; nothing if that fails, for then others may mend it.

        Args:
            running: The watchlists and shadows.
            watching: What the engine watches for them.
            recorded: The canaries that the others are to be held to.

        Raises:
            EngineDied: The engine is dead.
        """
        try:
            return await self._hear(running, watching, recorded)
        except EngineDied:
            raise
        except ScopewatchError as error:
            log.warning("the watchlists that run fail on the canary pairs", extra={"problem": str(error)})
            return Heard()

    async def compare(
        self, before: Heard, after: WatchlistSet, watching: "Watching", recorded: Recorded | None
    ) -> None:
        """Has other watchlists judge the pairs as they will when they run.

        Args:
            before: What those say that run.
            after: Those that are to take their place.
            watching: What the engine will watch for them.
            recorded: The canaries that they are to be held to; None for none.

        Raises:
            WatchlistError: Names every indicator whose score is no number, or another than before though it is
                defined alike, or another than was recorded.
            DataError: Nothing was recorded of any indicator of theirs.
            EngineError: The engine fails on a pair.
        """
        if recorded:
            check_covers(recorded, after)
        heard = await self._hear(after, watching, recorded)
        mistakes = contradictions(before, heard)
        if recorded:
            found = verdict(recorded.document, heard, watching.identity)
            differs = f" ({', '.join(found.differs)} changed since)" if found.differs else ""
            mistakes += [f"{recorded.file}: {problem}{differs}" for problem in found.problems]
        if mistakes:
            raise WatchlistError("\n".join(mistakes))

    async def _hear(self, watchlists: WatchlistSet, watching: "Watching", recorded: Recorded | None) -> Heard:
        pairs, pass_tokens = PAIRS, PASS_TOKENS
        if recorded:
            pairs, pass_tokens = recorded.document.recorded_pairs, recorded.document.pass_tokens
        read = self.hearing.at_once(watching)
        return await self.hearing.hear(pairs, watchlists.all_compiled, read, pass_tokens=pass_tokens)
