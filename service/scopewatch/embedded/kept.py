"""The scorer that `scopewatch.score` keeps between its calls: of one configuration, the last one.

Whoever scores in a notebook calls a function again and again; loading takes seconds and memory, so that it is kept for
as long as the same is asked for, and closed when the program ends.
"""

import atexit
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scopewatch.config import watchlist_file
from scopewatch.embedded.results import Results
from scopewatch.embedded.scorer import Scorer, config_of


class _Kept:
    """At most one scorer, and what it was opened for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: object = None
        self._scorer: Scorer | None = None

    def scorer(self, watchlist: Any, settings: dict[str, Any]) -> Scorer:
        """The scorer of these settings: the one that is kept, if neither they nor a watchlist file has changed."""
        config = config_of(watchlist, **settings)
        with self._lock:
            key = config, tuple(_digest(file) for file in config.watchlist)
            if self._scorer is None or key != self._key:
                self.close()
                self._scorer, self._key = Scorer(config), key
            return self._scorer

    def close(self) -> None:
        """Closes the scorer, if there is one."""
        if self._scorer:
            self._scorer.close()
            self._scorer = self._key = None


_KEPT = _Kept()
atexit.register(_KEPT.close)


def score(pairs: Any, watchlist: "str | Path | Sequence[str | Path] | None" = None, **settings: Any) -> Results:
    """Scores pairs in this process, as the service does; the reader is loaded at the first call, and kept.

        import scopewatch

        results = scopewatch.score([{"prompt": "What is it?", "response": "It might be gout."}])
        results[0].verdict, results[0].scores, results.warnings

    Args:
        pairs: Objects with prompt and response (or messages), tuples of both texts, or a data frame.
        watchlist: Watchlist files, or known readers whose own are meant; the bundled one if there is none.
        settings: Settings by name, such as `device="cuda"`.

    Raises:
        SetupError: A setting, a watchlist, the reader, an SAE or a pair is wrong.
        ScopewatchError: The engine failed altogether.
    """
    return _KEPT.scorer(watchlist, settings).score(pairs)


def _digest(file: Path) -> str:
    """A digest of a watchlist's text; of a file that cannot be read, none, so that opening it says why."""
    try:
        return hashlib.sha256(watchlist_file(file).read_bytes()).hexdigest()
    except OSError:
        return ""
