"""What there is to say of a watchlist file: whether it is valid, and the evidence of each of its indicators."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scopewatch.app.load import load
from scopewatch.config import Config
from scopewatch.errors import SetupError
from scopewatch.identity import EngineIdentity
from scopewatch.lifecycle.compare import evidence_line
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist


@dataclass(frozen=True, slots=True)
class CheckedIndicator:
    """An indicator and its evidence."""

    name: str
    kind: str
    terms: int
    """How many features or other indicators it is made of."""
    made_of: str
    """The same, or what words it counts."""
    threshold: float
    threshold_by_length: dict[str, float] | None
    """How the threshold goes with the length, as the watchlist says it; None where it is the same for all."""
    threshold_in_words: str
    severity: str
    calibrated: bool
    evidence: str
    """Its card in one line, with the figures of the dtype that was loaded, where it knows them."""
    in_other_dtypes: tuple[str, ...]
    """The same line with the figures of each dtype that the card was measured in beside."""
    card_problem: str
    """Why its card does not fit what was loaded; empty where it does, or where nothing was loaded."""
    binned: bool
    """Whether its card keeps bins of benign pairs, by which drift can be seen."""


@dataclass(frozen=True, slots=True)
class CheckedWatchlist:
    """A file that is a watchlist, or the error that says why it is none."""

    file: str
    error: str = ""
    indicators: tuple[CheckedIndicator, ...] = ()
    name: str = ""
    digest: str = ""
    loaded: bool = False
    """Whether the reader and the SAEs were loaded, to hold the cards against them."""

    @property
    def fits(self) -> bool:
        """Whether every indicator has a card, and one that fits."""
        return all(indicator.calibrated and not indicator.card_problem for indicator in self.indicators)

    def document(self) -> dict[str, Any]:
        """What was found, as JSON can hold it."""
        if self.error:
            return {"file": self.file, "error": self.error, "indicators": []}
        return asdict(self)

    def lines(self) -> list[str]:
        """What was found, in lines for a terminal."""
        if self.error:
            return [self.error]
        lines = [f"{self.file}: valid, {'reader and SAEs load, ' * self.loaded}watchlist {self.name}"]
        for one in self.indicators:
            kind = f"{one.kind} ({one.made_of})"
            lines.append(f"  {one.name}: {kind}, threshold {one.threshold_in_words}, severity {one.severity}")
            lines += [f"    {evidence}" for evidence in (one.evidence, *one.in_other_dtypes)]
            if one.card_problem:
                lines.append(f"    card does not fit: {one.card_problem}")
            if one.calibrated and not one.binned:
                lines.append(
                    "    no drift can be seen: the card keeps no bins; `scopewatch watchlist reference` adds them"
                )
        return lines


def check_watchlist(file: Path, load_with: Config | None = None) -> CheckedWatchlist:
    """Validates a watchlist file, and finds the evidence of its indicators.

    Args:
        file: The file.
        load_with: The settings to load its reader and SAEs with; None leaves them alone.
    """
    problems: dict[str, str] = {}
    try:
        watchlist = load_watchlist(file)
        if load_with:
            running = _running(watchlist, load_with)
            problems, watchlist = watchlist.card_problems(running), watchlist.as_run(running)
    except SetupError as error:
        return CheckedWatchlist(str(file), error=str(error))
    return CheckedWatchlist(
        file=str(file),
        indicators=tuple(_checked(one, problems.get(one.name, "")) for one in watchlist.indicators),
        name=watchlist.name,
        digest=watchlist.digest,
        loaded=load_with is not None,
    )


def _checked(indicator: Indicator, card_problem: str) -> CheckedIndicator:
    slope, card = indicator.threshold_by_length, indicator.card
    others = [one for one in card.also_measured if one != card.measured_in] if card else []
    return CheckedIndicator(
        name=indicator.name,
        kind=indicator.kind,
        terms=len(indicator.features or indicator.combines),
        made_of=indicator.made_of,
        threshold=indicator.threshold,
        threshold_by_length=slope.model_dump() if slope else None,
        threshold_in_words=indicator.threshold_in_words,
        severity=indicator.severity,
        calibrated=indicator.calibrated,
        evidence=evidence_line(card),
        in_other_dtypes=tuple(evidence_line(card.in_dtype(one.dtype)) for one in others if card),
        card_problem=card_problem,
        binned=bool(card and card.binned),
    )


def _running(watchlist: Watchlist, config: Config) -> EngineIdentity:
    """The reader and the SAEs that the watchlist loads."""
    # Each watchlist is loaded alone, since two may want different readers; a card that does not fit is reported here,
    # not refused.
    return load(config.model_copy(update={"strict_cards": False}), [watchlist]).engine.identity
