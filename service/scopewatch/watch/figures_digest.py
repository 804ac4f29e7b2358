"""The digest by which figures in another dtype are known to be of the indicator and of the card that they stand on.

A threshold, a weight or a figure that was changed since makes another digest: then the figures are nobody's.
"""

import hashlib
import json
from typing import Any

from scopewatch.watch.cards import AlsoMeasured
from scopewatch.watch.indicators import Indicator

_FOR_PEOPLE: dict[str, Any] = {
    **dict.fromkeys(("label", "severity", "shows", "card"), True),
    "features": {"__all__": {"label", "citation"}},
}
"""What of an indicator decides neither its score nor whether it is flagged."""
_MEASURED = {"data", "traffic", "confidence", "measurements", "made_with"}
"""What of a card says what was measured, on what and with what."""


def figures_digest(figures: AlsoMeasured, indicator: Indicator) -> str:
    """SHA-256 over figures, the indicator and the evidence on its card, as JSON has them.

    Args:
        figures: The figures; their own digest is not looked at.
        indicator: The indicator whose card they are on.
    """
    assert indicator.card is not None, "figures stand on a card"
    dumped = [
        figures.model_dump(mode="json", exclude_defaults=True, exclude={"digest"}),
        indicator.card.model_dump(mode="json", exclude_defaults=True, include=_MEASURED),
        indicator.model_dump(mode="json", exclude_defaults=True, exclude=_FOR_PEOPLE),
    ]
    return hashlib.sha256(json.dumps(dumped, sort_keys=True).encode()).hexdigest()


def stale_figures(indicator: Indicator) -> list[int]:
    """The places, in a card's figures of other dtypes, of those that are not of the indicator and the card any more."""
    every = indicator.card.also_measured if indicator.card else ()
    return [place for place, figures in enumerate(every) if figures.digest != figures_digest(figures, indicator)]


def without_stale(indicator: Indicator) -> Indicator:
    """The indicator, with a card that has only figures that are its own."""
    stale = stale_figures(indicator)
    if not stale or indicator.card is None:
        return indicator
    kept = tuple(one for place, one in enumerate(indicator.card.also_measured) if place not in stale)
    return indicator.model_copy(update={"card": indicator.card.model_copy(update={"also_measured": kept})})
