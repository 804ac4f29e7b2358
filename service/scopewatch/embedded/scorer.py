"""The spine inside a program: loaded once, asked from any thread, in a notebook's running event loop too."""

import asyncio
import threading
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scopewatch.app.load import load
from scopewatch.app.spine import Spine, offline
from scopewatch.config import CONFIG, ENGINE_SETTINGS, Config, load_config, unknown
from scopewatch.embedded.given_pairs import pairs_from
from scopewatch.embedded.results import Result, Results
from scopewatch.errors import ConfigError, NotReady, ScopewatchError
from scopewatch.pairs.scored import answers
from scopewatch.types import Pair, ScoreJob
from scopewatch.verdicts import ScoredPair

SETTINGS = ("watchlist", "labels", "cache_bytes", "max_evidence", CONFIG, *ENGINE_SETTINGS)
"""The settings that say something of a scorer; the others are of servers."""
_CLOSE_S = 10.0


def config_of(watchlist: "str | Path | Sequence[str | Path] | None" = None, **settings: Any) -> Config:
    """The configuration of a scorer; what is not given comes from the environment, as it does for commands.

    Args:
        watchlist: Watchlist files, or known readers whose own are meant; the bundled one if there is none.
        settings: Settings by name.

    Raises:
        ConfigError: A setting is wrong, or is none of a scorer's.
    """
    if strange := [unknown(name, name, SETTINGS) for name in settings if name not in SETTINGS]:
        raise ConfigError("; ".join(strange))
    if watchlist is not None:
        settings["watchlist"] = [watchlist] if isinstance(watchlist, str | Path) else list(watchlist)
    # What a server on this machine is set to is no matter here.
    return load_config(settings, called=str).model_copy(update={"shadow": ()})


def open_scorer(watchlist: "str | Path | Sequence[str | Path] | None" = None, **settings: Any) -> "Scorer":
    """Loads the reader and the SAEs of watchlists, which takes seconds, and keeps them until it is closed.

        with scopewatch.open("watchlist.yaml") as scorer:
            results = scorer.score([("What is it?", "It might be gout.")])

    Args:
        watchlist: As of `config_of`.
        settings: Settings by name, such as `device="cuda"`.

    Raises:
        SetupError: A setting, a watchlist, the reader or an SAE is wrong.
    """
    return Scorer(config_of(watchlist, **settings))


class Scorer:
    """Scores pairs as the service does, with the same numbers; made by `scopewatch.open`.

    Args:
        config: Settings, from `config_of`.

    Raises:
        SetupError: Something that they name cannot be loaded.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        loaded = load(config, whole=True)
        # An event loop of its own: a notebook's runs already, and cannot wait for another part of itself.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scopewatch", daemon=True)
        self._thread.start()
        self._running = AsyncExitStack()
        self._closed = False
        try:
            self._spine: Spine = self._wait(self._running.enter_async_context(offline(config, loaded)))
        except BaseException:
            self.close()
            raise

    @property
    def watchlists(self) -> tuple[str, ...]:
        """The names of the watchlists that are loaded; the first is the default one."""
        return tuple(watchlist.name for watchlist in self._spine.watchlists.sources)

    def score(self, pairs: Any, *, watchlist: str = "") -> Results:
        """Scores pairs; a pair that cannot be scored has an error in its result.

        Args:
            pairs: As of `given_pairs.pairs_from`.
            watchlist: The name of a loaded watchlist; empty for the default one.

        Raises:
            DataError: Some of them are no pairs; nothing was scored.
            NotReady: The scorer is closed.
            ScopewatchError: The engine failed altogether, or there is no such watchlist.
        """
        given = pairs_from(pairs)
        if self._closed:
            raise NotReady("this scorer is closed; open another one")
        return Results(self._wait(self._score(given, watchlist)))

    def close(self) -> None:
        """Lets go of the reader. Nothing happens if that was done."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            self._wait(self._running.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _score(self, pairs: Sequence[Pair], watchlist: str) -> list[Result]:
        results = []
        for first in range(0, len(pairs), self._config.at_once):
            chunk = pairs[first : first + self._config.at_once]
            jobs = [ScoreJob(pair, watchlist, request_id=str(uuid.uuid4()), include_evidence=True) for pair in chunk]
            outcomes = await answers(jobs, self._spine.score)
            results += [_result(pair, outcome) for pair, outcome in zip(chunk, outcomes, strict=True)]
        return results

    def _wait(self, work: Any) -> Any:
        """What some work in the scorer's event loop comes to; it is cancelled where the wait is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise


def _result(pair: Pair, outcome: ScoredPair | ScopewatchError) -> Result:
    if isinstance(outcome, ScopewatchError):
        return Result(pair, None, str(outcome))
    # A program may take a result apart, by `asdict` say, which knows tuples and no other sequence.
    indicators = tuple(replace(one, features=tuple(one.features)) for one in outcome.indicators)
    return Result(pair, replace(outcome, judgement=replace(outcome.judgement, indicators=indicators)))
