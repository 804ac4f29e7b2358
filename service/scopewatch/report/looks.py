"""The look of each detector: the colour and the dashes that it has in every figure and every table."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

Dash = Literal["-", "--", "-.", ":"]
"""A line's dashes, as matplotlib names them."""
_BLUE, _ORANGE, _GREEN, _PINK, _OCHRE, _GREY, _VIOLET, _SKY = (
    *("#0077bb", "#d55e00", "#009e73", "#c0669a", "#b8860b", "#7f7f7f", "#8c6bd1", "#3a9bd3"),
)
"""After Okabe and Ito; each has a contrast of at least 3 with a white page and with a dark one."""
_IN_SVG: dict[Dash, str] = {"-": "none", "--": "7 3", "-.": "10 3 2 3", ":": "2 3"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a detector's line is drawn."""

    colour: str
    dash: Dash

    @property
    def dashes(self) -> str:
        """The dashes as SVG's `stroke-dasharray` has them, for a line that is two units wide."""
        return _IN_SVG[self.dash]


INDICATOR = Look(_BLUE, "-")
"""The look of the indicator that a page is about, whatever its name."""
_KNOWN = {
    "bag_of_words": Look(_ORANGE, "--"),
    "dense_probe": Look(_GREEN, "-."),
    "sae_features": Look(_GREEN, "-"),  # stand where a probe is the indicator, and the dense probe does not
    "difference_of_means": Look(_PINK, "--"),
    "single_feature": Look(_OCHRE, "-"),
    "random_features": Look(_GREY, ":"),
    "hedge_words": Look(_VIOLET, "-."),
    "response_length": Look(_SKY, ":"),
    "equal_weights": Look(_GREY, "--"),
    "fitted_weights": Look(_GREY, "-"),
}
"""Those that are drawn with the same dashes are far apart in colour, for the colour-blind too."""
_FREE = [
    [
        look
        for dash in ("-", "--", "-.", ":")
        for colour in colours
        if (look := Look(colour, dash)) not in _KNOWN.values()
    ]
    for colours in ((_GREEN, _PINK, _OCHRE), (_VIOLET, _ORANGE, _SKY, _GREY))
]
"""What other detectors may look like, such as the parts of a combination: first in colours of none that they are shown
beside, which all see the text alone."""


def looks_of(detectors: Sequence[str]) -> dict[str, Look]:
    """The look of each detector of a figure, by its name.

    A detector that calibration knows always has its own. Any other has the one that its name picks, or the next, if
    another that calibration does not know has that; so these are told apart up to some twenty.

    Args:
        detectors: The names of the detectors; the first is that of the indicator.
    """
    looks = {name: _KNOWN[name] for name in detectors if name in _KNOWN} | {detectors[0]: INDICATOR}
    others: dict[str, Look] = {}
    for name in sorted(set(detectors) - looks.keys()):
        others[name] = _picked(name, others.values())
    return looks | others


def _picked(name: str, taken: Collection[Look]) -> Look:
    first, then = _FREE
    start, colours = crc32(name.encode()) % len(first), {look.colour for look in taken}
    turned = first[start:] + first[:start] + then
    return min(turned, key=lambda look: (look in taken, look.colour in colours or look in then))
