"""The whole SAEs behind what is watched: opened when somebody asks for them, and forgotten with what is watched."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from scopewatch.config import Config
from scopewatch.engine.looks import Steps
from scopewatch.engine.watching import LoadedSae
from scopewatch.engine.whole import WholeDictionary, open_dictionary
from scopewatch.errors import HubError, SaeError
from scopewatch.reader.loading import Reader

T = TypeVar("T")
_WAIT_S = 0.005
"""How long the engine's thread waits at once for files."""


class _Opened(NamedTuple):
    loaded: LoadedSae
    dictionary: WholeDictionary


class OpenedSaes:
    """Opens whole SAEs on a reader.

    Args:
        reader: The reader.
        config: Settings.
    """

    def __init__(self, reader: Reader, config: Config) -> None:
        self._reader = reader
        self._config = config
        self._opened: dict[str, _Opened] = {}

    def of(self, watched: Sequence[LoadedSae]) -> Steps[Mapping[str, WholeDictionary | SaeError]]:
        """The dictionaries of all SAEs that are watched, by their names, or why there is none.

        Those that are not watched any more are forgotten.

        Args:
            watched: The SAEs.
        """
        found: dict[str, WholeDictionary | SaeError] = {}
        kept = {sae.name: self._opened[sae.name] for sae in watched if self._holds(sae)}
        for sae in watched:
            try:
                if sae.name not in kept:
                    kept[sae.name] = _Opened(sae, (yield from self._open(sae)))
                found[sae.name] = kept[sae.name].dictionary
            except (SaeError, HubError) as error:
                found[sae.name] = SaeError(str(error))
        self._opened = kept
        return found

    def _holds(self, sae: LoadedSae) -> bool:
        held = self._opened.get(sae.name)
        return held is not None and _same(held.loaded) == _same(sae)

    def _open(self, sae: LoadedSae) -> Steps[WholeDictionary]:
        return (yield from _beside(lambda: open_dictionary(sae, self._reader, self._config)))


def _same(sae: LoadedSae) -> tuple[object, ...]:
    """What decides whether a dictionary is that of an SAE."""
    return sae.source, sae.watched.digest, sae.hookpoint


def _beside(work: Callable[[], T]) -> Steps[T]:
    """Has work with files done on a thread of its own, since it may take seconds."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="open-sae")
    working = thread.submit(work)
    thread.shutdown(wait=False)
    while not wait([working], _WAIT_S).done:
        yield
    return working.result()
