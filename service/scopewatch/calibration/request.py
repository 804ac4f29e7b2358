"""An indicator that is to be calibrated: on which pairs, by what rules, and how it is written into a watchlist.

Every recipe (`detector.py`, `combination.py`, `benign.py`) begins with a `Request`.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from scopewatch.app.load import load
from scopewatch.app.spine import offline
from scopewatch.calibration.wanted import Wanted
from scopewatch.config import Config
from scopewatch.errors import ConfigError, Unsupported
from scopewatch.identity import EngineIdentity
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import PairsRead, Reading, read_pairs
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.scored import ScoredPairs, score_pairs
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Rounding
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.splice import write_indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be calibrated, and where the result is to stand."""

    indicator: str
    """The indicator's name."""
    data: tuple[Path, ...]
    """The files that hold the pairs."""
    wanted: Wanted
    base: Watchlist
    """The watchlist whose reader, SAEs and indicators are used."""
    out: Path
    """The watchlist file that is made, or that the indicator is written into."""
    watchlist_name: str
    """The name of the watchlist, if it is made."""
    segment: str = "response"
    severity: str = "medium"
    label: str = ""
    """What the indicator means, for people."""
    shows: str = ""
    """What the indicator shows of a single sentence: `hedging`, `knowledge` or nothing."""
    flip_labels: bool = False
    """Whether the indicator is to fire where the files' label is 0."""
    reading: Reading = field(default_factory=Reading)
    """How the files are read."""

    def labelled_pairs(self) -> PairsRead:
        """The labelled pairs of all files, in groups that share no copies.

        Raises:
            DataError: A file cannot be read, or one of the labels is nowhere.
        """
        read = join_copies(read_pairs(*self.data, reading=self.reading), self.segment)
        if not self.flip_labels:
            return read
        return replace(read, pairs=[replace(pair, label=1 - (pair.label or 0)) for pair in read.pairs])

    def made_indicator(self, **fields: object) -> Indicator:
        """The indicator, given what calibration makes of its other fields.

        Raises:
            ConfigError: A field is wrong; named as the command's argument.
        """
        said = {name: getattr(self, name) for name in ("label", "segment", "severity", "shows")}
        try:
            return Indicator.model_validate({"name": self.indicator, **said, **fields})
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise ConfigError(f"--{place}: {problem['msg'].removeprefix('Value error, ')}") from None

    def rehearse_writing(self, draft: Indicator, reader: ReaderSource, saes: Mapping[str, SaeSource]) -> None:
        """Refuses an indicator that could not be written, before the work of calibrating it.

        Args:
            draft: The indicator with any numbers.
            reader: The reader that it is made for.
            saes: The SAEs and probes that its features name.
        """
        write_indicator(self.out, draft, reader, saes, self.watchlist_name, rehearse=True)

    def saes_of(self, combined: Sequence[str]) -> dict[str, SaeSource]:
        """The SAEs of indicators that are combined, which have to stand in the file that is written, too.

        Raises:
            ConfigError: The file lacks one of these indicators or has another of that name, or would lose one.
        """
        if self.indicator in combined:
            raise ConfigError(f"--indicator: {self.indicator} cannot be made of itself; give another name")
        parts = [indicator for indicator in self.base.indicators if indicator.name in combined]
        there = load_watchlist(self.out).indicators if self.out.exists() else ()
        if lacking := [part.name for part in parts if part not in there]:
            raise ConfigError(
                f"--out: a combination stands beside its parts, and {self.out} has not the {', '.join(lacking)} of "
                f"{self.base.file}; give --out {self.base.file} or a copy of it"
            )
        names = dict.fromkeys(feature.key.sae for part in parts for feature in part.features)
        return {name: self.base.absolute(self.base.saes[name]) for name in names}


@contextmanager
def telling(tally: Tally) -> Iterator[None]:
    """Adds what is odd about the rows to what is said where they do not support an indicator."""
    try:
        yield
    except Unsupported as problem:
        raise Unsupported("\n".join([str(problem), *tally.notes])) from None


@dataclass(frozen=True, slots=True)
class ScoredHere:
    """What the online scorer says of pairs, and the engine that ran."""

    scored: ScoredPairs
    running: EngineIdentity


def score_all(
    pairs: Sequence[LabelledPair],
    names: Sequence[str],
    watchlist: Watchlist,
    config: Config,
    reading: Reading,
    *,
    rounding: Rounding = "none",
    pooled: bool = False,
) -> ScoredHere:
    """The online scorer's scores of pairs by some indicators of a watchlist, by a reader with its weights rounded.

    With `pooled` the pooled values of their terms are kept too.
    """
    loaded = load(config, [watchlist], rounding=rounding)

    async def run() -> ScoredPairs:
        async with offline(config, loaded) as monitor:
            return await score_pairs(
                pairs, names, "", monitor.score, at_once=config.at_once, reading=reading, pooled=pooled
            )

    return ScoredHere(asyncio.run(run()), loaded.engine.identity)
