"""The recipe for the figures of cards in another dtype: the cards' own pairs, scored as the service would score them.

They are scored in the dtype that the cards were made in too: so it is known how many flags differ, and that the cards
say what their pairs show.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import scopewatch
from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import Spine, offline
from scopewatch.calibration.benign_pairs import Choice
from scopewatch.calibration.card_figures import Heard, differing, rows_again
from scopewatch.calibration.card_pairs import CardPairs, card_pairs, files_by_digest
from scopewatch.config import Config
from scopewatch.errors import DataError, WatchlistError
from scopewatch.identity import EngineIdentity
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.scored import score_pairs
from scopewatch.sources import today
from scopewatch.watch.cards import AlsoMeasured, Card
from scopewatch.watch.figures_digest import figures_digest
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist

_UNMADE = "0" * 64


@dataclass(frozen=True, slots=True)
class MeasuredAlso:
    """Figures in another dtype."""

    figures: Mapping[str, AlsoMeasured]
    """By the name of the indicator."""
    skipped: Mapping[str, str]
    """Why indicators that were not asked for by name were left as they are, by their names."""
    cards: Mapping[str, Card]
    """The cards that the figures are for, by the name of the indicator."""

    def lines(self) -> list[str]:
        """What was measured, in lines for a terminal."""
        measured = [line for name, one in self.figures.items() for line in _told(name, self.cards[name], one)]
        return [*measured, *(f"{name}: left as it is, since {why}" for name, why in self.skipped.items())]


def _told(name: str, card: Card, also: AlsoMeasured) -> Iterator[str]:
    """What was measured of an indicator, in lines for a terminal."""
    yield f"{name} in {also.dtype} on {also.device}: {also.flags_changed:,} of {also.n:,} flags differ"
    for was, now in zip(card.measurements, also.measurements, strict=True):
        moved = [
            f"{key} {getattr(was, key):.4f} -> {getattr(now, key):.4f}"
            for key in ("auroc", "tpr", "fpr", "fpr_upper", "ece")
            if getattr(was, key) is not None
        ]
        yield f"  {now.data.rpartition(': ')[2]}: {', '.join(moved)}"
        if card.max_fpr is not None and now.fpr_upper is not None and now.fpr_upper > card.max_fpr:
            yield (
                f"  in {also.dtype} false positives are bounded by {now.fpr_upper:g}, above the {card.max_fpr:g} asked "
                "for; where that matters, let benign pairs set the threshold in it (calibrate --benign)"
            )


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the online scorer says of the pairs of one card."""

    held_out: Heard | None
    traffic: Heard | None

    @property
    def all(self) -> list[Heard]:
        """Both of them, as far as there are pairs."""
        return [heard for heard in (self.held_out, self.traffic) if heard]


def measure_also(
    watchlist: Watchlist, names: Sequence[str], files: Sequence[Path], config: Config, *, choice: Choice
) -> MeasuredAlso:
    """The figures of cards in the dtype that settings name, on the pairs that the cards were measured on.

    Args:
        watchlist: The watchlist.
        names: The names of the indicators; none for all whose card was made in another dtype.
        files: The files that the cards name.
        config: Settings of the engine, with the dtype.
        choice: How the files are read, and how the calibration split and labelled them.

    Raises:
        WatchlistError: There is no such indicator, or there is nothing to measure of it; its card was made with other
            things than run but for the dtype, or does not say what its pairs show.
        DataError: The files are not the card's.
        ConfigError: The dtype cannot be had here.
    """
    # That a card does not speak for what runs is why this is asked for, or is refused below.
    config = config.model_copy(update={"strict_cards": False})
    there = load(config, [watchlist])
    running = there.engine.identity
    skipped = _skipped(watchlist, running)
    indicators = _wanted(watchlist, names, skipped)
    first = _first_dtype(watchlist, indicators)
    _refuse_others(watchlist, indicators, running, first)
    known = files_by_digest(files, [one.card for one in watchlist.indicators if one.card])
    pairs = {one.name: card_pairs(one, known, choice) for one in indicators}
    now = asyncio.run(_hear(indicators, pairs, there, config, choice))
    as_made = config.model_copy(update={"dtype": first})
    before = asyncio.run(_hear(indicators, pairs, load(as_made, [watchlist]), as_made, choice))
    return MeasuredAlso(
        {one.name: _figures(watchlist, one, before[one.name], now[one.name], running) for one in indicators},
        {} if names else skipped,
        {one.name: one.card for one in indicators if one.card},
    )


def _skipped(watchlist: Watchlist, running: EngineIdentity) -> dict[str, str]:
    """Why there is nothing to measure of indicators, by their names; those of which there is are left out."""
    dtype = running.reader.dtype

    def why(indicator: Indicator) -> str:
        card = indicator.card
        if card is None:
            return "it has no card; calibrate it first"
        if card.made_with is None:
            return "its card does not say what it was made with; calibrate it again"
        if not watchlist.needs_weights(indicator):
            return "it counts words or characters, which are the same in every dtype"
        if card.made_with.dtype == dtype:
            return f"its card was made in {dtype}, which is what runs; name another --dtype"
        return ""

    told = {one.name: why(one) for one in watchlist.indicators}
    return {name: reason for name, reason in told.items() if reason}


def _wanted(watchlist: Watchlist, names: Sequence[str], skipped: Mapping[str, str]) -> list[Indicator]:
    """The indicators of these names, or all of which there is something to measure."""
    there = {indicator.name: indicator for indicator in watchlist.indicators}
    for name in names:
        if name not in there:
            raise WatchlistError(f"--indicator: {watchlist.file} has no {name!r} ({', '.join(there)})")
        if name in skipped:
            raise WatchlistError(f"--indicator: {name} of {watchlist.file}: {skipped[name]}")
    wanted = [there[name] for name in dict.fromkeys(names or there) if name not in skipped]
    if not wanted:
        told = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise WatchlistError(f"{watchlist.file}: there is nothing to measure: {told}")
    return wanted


def _first_dtype(watchlist: Watchlist, indicators: Sequence[Indicator]) -> str:
    """The dtype that the cards of the indicators were made in."""
    made = {one.card.made_with.dtype for one in indicators if one.card and one.card.made_with}
    if len(made) > 1:
        raise WatchlistError(
            f"{watchlist.file}: the cards were made in {' and '.join(sorted(made))}; name those of one, by --indicator"
        )
    return made.pop()


def _refuse_others(watchlist: Watchlist, indicators: Sequence[Indicator], running: EngineIdentity, dtype: str) -> None:
    """Refuses cards that were made with something else than what runs, even if it ran in their dtype."""
    problems = watchlist.card_problems(replace(running, reader=replace(running.reader, dtype=dtype)))
    _refuse(watchlist, [(one, problems[one.name]) for one in indicators if one.name in problems])


def _refuse(watchlist: Watchlist, problems: Sequence[tuple[Indicator, str]]) -> None:
    places = {one.name: place for place, one in enumerate(watchlist.indicators)}
    if problems:
        told = [f"{watchlist.where('indicators', places[one.name], 'card')}: {why}" for one, why in problems]
        raise WatchlistError("\n".join([*told, "calibrate again, or load what the card was made with"]))


async def _hear(
    indicators: Sequence[Indicator],
    pairs: Mapping[str, CardPairs],
    loaded: Loaded,
    config: Config,
    choice: Choice,
) -> dict[str, _Heard]:
    """What the online scorer says of each card's pairs, by the indicator's name; pairs of two cards are read once."""
    async with offline(config, loaded) as spine:
        heard: dict[str, _Heard] = {}
        for indicator in indicators:
            if indicator.name not in heard:
                mine = pairs[indicator.name]
                alike = [
                    one.name
                    for one in indicators
                    if (pairs[one.name].held_out, pairs[one.name].traffic) == (mine.held_out, mine.traffic)
                ]
                held_out = await _scored(mine.held_out, alike, spine, config, choice)
                traffic = await _scored(mine.traffic, alike, spine, config, choice)
                heard |= {name: _Heard(held_out.get(name), traffic.get(name)) for name in alike}
        return heard


async def _scored(
    pairs: Sequence[LabelledPair], names: Sequence[str], spine: Spine, config: Config, choice: Choice
) -> dict[str, Heard]:
    """What is said of some pairs by several indicators, by their names."""
    if not pairs:
        return {}
    scored = await score_pairs(pairs, names, "", spine.score, at_once=config.at_once, reading=choice.reading)
    return {name: Heard(scored.pairs, found) for name, found in scored.by_indicator.items()}


def _figures(
    watchlist: Watchlist, indicator: Indicator, before: _Heard, now: _Heard, running: EngineIdentity
) -> AlsoMeasured:
    """The figures of an indicator's card in the dtype that runs, given what is said in the card's own and in this."""
    card = indicator.card
    assert card is not None, "it was asked for"
    try:
        if problems := list(differing(card, rows_again(card, before.held_out, before.traffic))):
            told = "; ".join(problems)
            _refuse(watchlist, [(indicator, f"{told}: the card was edited, or the indicator since it was made")])
        rows = rows_again(card, now.held_out, now.traffic)
    except DataError as problem:
        raise DataError(f"{indicator.name}: {problem}") from None
    flags = [(one.found.flagged, other.found.flagged) for one, other in zip(before.all, now.all, strict=True)]
    figures = AlsoMeasured(
        dtype=running.reader.dtype,
        device=running.reader.device,
        date=today(),
        scopewatch=scopewatch.__version__,
        n=sum(len(one) for one, _ in flags),
        flags_changed=sum(int((one != other).sum()) for one, other in flags),
        measurements=rows,
        digest=_UNMADE,
    )
    return figures.model_copy(update={"digest": figures_digest(figures, indicator)})
