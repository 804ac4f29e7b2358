"""What two watchlists say differently, and what a card says in one line."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scopewatch.watch.cards import Card
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two watchlists say differently."""

    place: tuple[str, ...]
    """Names from the top of the file, such as indicators, speculation, threshold."""
    before: Any
    """The plain value there, or a mapping of all that is there; None for nothing."""
    after: Any
    """Likewise, in the other watchlist."""

    def __str__(self) -> str:
        place = " > ".join(self.place)
        if isinstance(self.after, dict):
            return f"{place}: added: {_shown(self.after)}"
        if isinstance(self.before, dict):
            return f"{place}: removed: {_shown(self.before)}"
        return f"{place}: {_shown(self.before)} -> {_shown(self.after)}"


def differences(before: Watchlist, after: Watchlist) -> list[Difference]:
    """What changed from one watchlist to the other; empty when they mean the same.

    Comments, the order of entries and defaults written out are no differences. Paths are compared as they are written.
    """
    return [] if before.digest == after.digest else list(_compare((), _tree(before), _tree(after)))


def evidence_line(card: Card | None) -> str:
    """A card in one line, by its first measurement; the AUROC by the first that has one."""
    if card is None:
        return "uncalibrated"
    parts = [f"calibrated {card.date}"]
    if also := card.measured_in:
        parts.append(f"in {also.dtype} on {also.device} ({also.flags_changed:,} of {also.n:,} flags differ)")
    parts += _figures(card)
    if card.beside_bag_of_words == "undecided":
        parts.append("not decided whether it beats a bag of words")
    elif card.beats_bag_of_words is not None:
        parts.append(f"{'beats' if card.beats_bag_of_words else 'does NOT beat'} a bag of words")
    parts += [f"leak: {leak}" for leak in card.leaks]
    if card.stands_on:
        parts.append(f"stands on one word, {card.stands_on!r}")
    others = len(card.measurements) - 1
    if others:
        parts.append(f"and {others} more measurement{'s' * (others > 1)}")
    return ", ".join(parts)


def _figures(card: Card) -> Iterator[str]:
    """The figures of a card's first measurement; the AUROC of the first that has one."""
    first = card.measurements[0]
    yield f"n {first.n}"
    ranked = next((one for one in card.measurements if one.auroc is not None), None)
    if ranked:
        ends = (ranked.auroc_low, ranked.auroc_high)
        yield f"AUROC {ranked.auroc:.3f}" + (" ({:.3f} to {:.3f})".format(*ends) if None not in ends else "")
    if first.tpr is not None:
        yield f"TPR {first.tpr:.3f}"
    if first.fpr is not None:
        yield f"FPR {first.fpr:.3f}"
    if first.fpr_upper is not None:
        rate = "" if first.fpr_groups is None else f"{first.fpr_groups:.3f}, "
        yield f"FPR by groups {rate}at most {first.fpr_upper:.3f}"


def _tree(watchlist: Watchlist) -> Tree:
    return {
        "name": watchlist.name,
        "reader": watchlist.reader.model_dump(mode="json"),
        "saes": {name: source.model_dump(mode="json") for name, source in watchlist.saes.items()},
        "indicators": {indicator.name: _indicator(indicator) for indicator in watchlist.indicators},
    }


def _indicator(indicator: Indicator) -> Tree:
    lists = {"features", "combines"}
    card = indicator.card
    # Two cards that look alike in one line may still differ.
    mark = hashlib.sha256(card.model_dump_json().encode()).hexdigest()[:8] if card else ""
    return indicator.model_dump(mode="json", exclude={"name", "pooling", "card", *lists}) | {
        "features": {
            f"{term.feature} {term.pooling or indicator.pooling}": term.model_dump(
                mode="json", exclude={"feature", "pooling"}
            )
            for term in indicator.features
        },
        "combines": {term.name: {"weight": term.weight} for term in indicator.combines},
        "card": f"{evidence_line(card)} [{mark}]" if card else "uncalibrated",
    }


def _compare(place: tuple[str, ...], before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before | after:
            yield from _compare((*place, name), before.get(name), after.get(name))
    elif before != after:
        yield Difference(place, before, after)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        parts = (
            f"{len(part)} {name}" if isinstance(part, dict) else f"{name} {_shown(part)}"
            for name, part in value.items()
            if part not in ("", None, {})
        )
        return ", ".join(parts)
    return "nothing" if value in ("", None) else str(value)
