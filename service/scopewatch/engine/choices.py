"""What the watchlists of one service ask for together: one reader, and features of SAEs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from scopewatch.config import Config
from scopewatch.errors import HubError, NoSuchFeature, SaeError, WatchlistError
from scopewatch.identity import Relation
from scopewatch.reader.find import find_reader
from scopewatch.releases.find import find_sae
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.watchlist import Watchlist


@dataclass(slots=True)
class SaeChoice:
    """An SAE and the features wanted of it."""

    name: str
    """What the watchlists call the SAE."""
    source: SaeSource
    """Where the SAE is; its path, if it has one, counts from the working directory."""
    wanted: dict[int, str] = field(default_factory=dict)
    """Feature index to the place in a watchlist that asks for it."""
    asked_by: str = ""
    """The place in a watchlist that asks for the SAE, for messages."""


def choices(watchlists: Sequence[Watchlist]) -> tuple[ReaderSource, list[SaeChoice]]:
    """The reader and the SAEs that the watchlists ask for together.

    Raises:
        WatchlistError: They ask for different readers, or call different SAEs by one name.
    """
    readers = [_absolute_reader(watchlist) for watchlist in watchlists]
    saes: dict[str, SaeChoice] = {}
    names: set[str] = set()
    for watchlist, reader in zip(watchlists, readers, strict=True):
        if watchlist.name in names:
            raise WatchlistError(f"{watchlist.where('name')}: another watchlist is already named {watchlist.name!r}")
        names.add(watchlist.name)
        if reader != readers[0]:
            raise WatchlistError(
                f"{watchlist.where('reader')}: one process has one reader with one way of rendering, and "
                f"{watchlists[0].file} asks for another"
            )
        for name, source in watchlist.saes.items():
            place = watchlist.where("saes", name)
            here = str(watchlist.resolve(source.path).absolute()) if source.path else ""
            choice = SaeChoice(name, source.model_copy(update={"path": here}), asked_by=place)
            known = saes.setdefault(name, choice)
            if known.source != choice.source:
                raise WatchlistError(f"{place}: another watchlist calls a different SAE {name!r}; rename one")
        for feature, location in watchlist.features.items():
            saes[feature.sae].wanted.setdefault(feature.index, watchlist.where(*location))
    return readers[0], [saes[name] for name in sorted(saes) if saes[name].wanted]


def united(held: Sequence[SaeChoice], wanted: Sequence[SaeChoice]) -> list[SaeChoice]:
    """What two sets of watchlists ask for together, the one taking the other's place.

    Args:
        held: What is asked for now. A name that the wanted ones give to another SAE is changed in the result.
        wanted: What will be asked for.
    """
    found = {choice.name: replace(choice, wanted=dict(choice.wanted)) for choice in wanted}
    for choice in held:
        same = found.get(choice.name)
        if same is None:
            found[choice.name] = choice
        elif same.source == choice.source:
            same.wanted |= {index: place for index, place in choice.wanted.items() if index not in same.wanted}
        else:
            name = f"{choice.name} (replaced)"
            found[name] = replace(choice, name=name)
    return list(found.values())


def check_places(reader: ReaderSource, saes: Sequence[SaeChoice], config: Config) -> None:
    """Refuses a reader and SAEs whose files are not on this machine, before torch is imported to read them.

    Args:
        reader: The reader.
        saes: The SAEs; their paths count from the working directory.
        config: Settings; where `allow_download` is set, what has a hub id is not looked for.

    Raises:
        ReaderError: The reader is not there, or lacks a file.
        SaeError: An SAE is not there.
    """
    if not (reader.id and config.allow_download):
        find_reader(reader, config)
    for choice in saes:
        with asked_by(choice):
            if choice.source.path or not config.allow_download:
                path = find_sae(choice.source, allow_download=False).path
                if not path.exists():
                    raise SaeError(f"{path}: no such file or folder")


@contextmanager
def asked_by(choice: SaeChoice) -> Iterator[None]:
    """Puts the watchlist's line before what is wrong with an SAE."""
    try:
        yield
    except (SaeError, HubError) as error:
        place = choice.wanted[error.feature] if isinstance(error, NoSuchFeature) else choice.asked_by
        raise SaeError(f"{place}: {error}" if place else str(error)) from None


def _absolute_reader(watchlist: Watchlist) -> ReaderSource:
    source = watchlist.reader
    path = str(watchlist.resolve(source.path).resolve()) if source.path else ""
    # Without the relation, in which watchlists of one reader may differ.
    return source.model_copy(update={"path": path, "relation": Relation.READER_MODEL})
