"""Figures of what was measured: ROC curves, distributions and reliability diagrams, drawn as SVG by matplotlib."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from scopewatch.errors import DataError
from scopewatch.report.looks import INDICATOR, looks_of
from scopewatch.statistics.scores import Bool, Scores

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure as Panel

    from scopewatch.statistics.calibration_error import Bin

_INK = "#010203"
"""What is drawn in this colour takes the colour of the text around it, in a light page and in a dark one."""
_GREY = "#999999"
"""What is no detector: the line of chance, and the pairs of label 0 beside those of label 1."""
_PANEL = (4.2, 4.9)
"""Width and height of a panel, in inches."""
_UPPER, _LOWER = (0.15, 0.4, 0.81, 0.58), (0.15, 0.1, 0.81, 0.15)
"""Left, bottom, width and height of a panel's axes, as shares of the panel."""
_BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.19)}
_MOST_LARGE = 6
"""The most entries of a legend that have the usual size."""
_MOST_ENTRIES = 9
"""The most entries of a legend for which a panel has room; each of more makes it higher."""
_ENTRY = 0.145
"""The height of a small entry of a legend, in inches."""
_STYLE: dict[Any, object] = {
    "axes.edgecolor": _INK,
    "axes.facecolor": "none",
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "scopewatch",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing of this module, never the text of a file: its SVG goes into the page as it is."""

    title: str
    svg: str
    caption: str = ""


def roc(labels: Bool, detectors: Mapping[str, Scores], threshold: float | Scores | None = None) -> str:
    """The ROC curves of several detectors as SVG.

    Args:
        labels: The label of each of n pairs; both must occur.
        detectors: The scores of each detector, shape (n,), by its name; the detector that matters is the first.
        threshold: The first detector's threshold, one for all pairs or one for each, whose rates are marked; None for
            no mark.

    Raises:
        DataError: matplotlib is not installed.
    """
    return _svg(1, lambda panel: _draw_roc(panel, labels, detectors, threshold), entries=len(detectors))


def distributions(labels: Bool, scores: Scores, threshold: float | Scores) -> str:
    """Histograms of the scores of both labels with the threshold, as SVG.

    Args:
        labels: The label of each of n pairs; both must occur.
        scores: The score of each pair.
        threshold: The score above which a pair is flagged; where each pair has its own, scores are shown as they would
            be at the median of these thresholds, as far above or below it.

    Raises:
        DataError: matplotlib is not installed.
    """
    return _svg(1, lambda panel: _draw_distributions(panel, labels, scores, threshold))


def reliability_diagram(bins: "Sequence[Bin]") -> str:
    """The share of label 1 against the mean probability, for each bin that holds pairs, as SVG.

    Raises:
        DataError: matplotlib is not installed.
    """
    return _svg(1, lambda panel: _draw_reliability(panel, bins))


def plot(labels: Bool, detectors: Mapping[str, Scores], threshold: float | Scores) -> str:
    """ROC curves, and the distributions of the first detector's scores, as one SVG file on white.

    Raises:
        DataError: matplotlib is not installed.
    """

    def draw(left: "Panel", right: "Panel") -> None:
        _draw_roc(left, labels, detectors, threshold)
        _draw_distributions(right, labels, next(iter(detectors.values())), threshold)

    return '<?xml version="1.0" encoding="utf-8"?>\n' + _svg(2, draw, entries=len(detectors), background="white")


def need_matplotlib() -> None:
    """Says at once what a figure would say only after all is measured.

    Raises:
        DataError: matplotlib is not installed.
    """
    try:
        import_module("matplotlib")
    except ImportError:
        raise DataError("figures need matplotlib: pip install 'scopewatch[calibration]'") from None


def _svg(panels: int, draw: "Callable[..., None]", entries: int = 0, background: str = "none") -> str:
    """The SVG of what `draw` draws into panels side by side: the same bytes for the same drawing."""
    need_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    file = StringIO()
    unsigned: dict[str, Any] = {"metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))}
    with rc_context(_STYLE):
        canvas = Canvas(figsize=_size(panels, entries), facecolor=background)
        draw(*canvas.subfigures(1, panels, squeeze=False)[0])
        canvas.savefig(file, format="svg", **unsigned)
    drawn = file.getvalue()
    # Nothing refers to the groups, whose names would repeat from figure to figure of a page.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn[drawn.index("<svg") :])
    return drawn.replace(_INK, "currentColor")


def _size(panels: int, entries: int) -> tuple[float, float]:
    """The width and height, in inches, of panels side by side whose legends have so many entries at most."""
    width, height = _PANEL
    return panels * width, height + _ENTRY * max(0, entries - _MOST_ENTRIES)


def _upper(panel: "Panel") -> tuple[float, float, float, float]:
    """Where a panel's axes are: what makes it higher is room below them."""
    left, bottom, width, height = _UPPER
    grown = max(1.0, panel.bbox.height / panel.dpi / _PANEL[1])
    return left, (bottom + grown - 1) / grown, width, height / grown


def _draw_roc(panel: "Panel", labels: Bool, detectors: Mapping[str, Scores], threshold: float | Scores | None) -> None:
    axes = panel.add_axes(_upper(panel))
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
    curves = []
    looks = looks_of(list(detectors))
    for number, (name, scores) in enumerate(detectors.items()):
        fpr, tpr = _curve(labels, scores)
        curves += axes.plot(
            fpr,
            tpr,
            color=looks[name].colour,
            linestyle=looks[name].dash,
            linewidth=1.3 if number else 2.4,
            zorder=2 if number else 3,
            label=f"{name} {np.trapezoid(tpr, fpr):.3f}",
        )
        if number == 0 and threshold is not None:
            flagged = scores > threshold
            axes.plot(
                flagged[~labels].mean(), flagged[labels].mean(), "o", color=INDICATOR.colour, markersize=8, zorder=4
            )
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(0, 1), ylim=(0, 1.01))
    # The last of more entries, in the usual size, would stand below the figure.
    small: dict[str, Any] = {"fontsize": 8, "labelspacing": 0.2} if len(curves) > _MOST_LARGE else {}
    axes.legend(handles=curves, **_BELOW, **small)


def _curve(labels: Bool, scores: Scores) -> tuple[Scores, Scores]:
    """The false-positive and true-positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    last_of_each = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    positives = np.cumsum(labels[order])[last_of_each]
    negatives = last_of_each + 1 - positives
    return np.append(0.0, negatives / negatives[-1]), np.append(0.0, positives / positives[-1])


def _draw_distributions(panel: "Panel", labels: Bool, scores: Scores, threshold: float | Scores) -> None:
    """Draws histograms whose outermost bars hold what lies beyond, so that one far score does not squeeze the rest."""
    axes = panel.add_axes(_upper(panel))
    thresholds, threshold = threshold, float(np.median(threshold))
    scores = scores - (thresholds - threshold)
    low, high = np.quantile(scores, [0.005, 0.995])
    low, high = min(low, threshold), max(high, threshold)
    edges = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
    for label, colour in enumerate((_GREY, INDICATOR.colour)):
        mine = np.clip(scores[labels == label], edges[0], edges[-1])
        axes.hist(
            mine,
            edges.tolist(),
            weights=np.full(len(mine), 1 / len(mine)),
            histtype="stepfilled",
            color=colour,
            alpha=0.55,
            label=f"label {label} ({len(mine):,})",
        )
    axes.axvline(threshold, color=_INK, linewidth=1.2, linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score", ylabel="share of the label's pairs", xlim=(edges[0], edges[-1]))
    axes.legend(**_BELOW)


def _draw_reliability(panel: "Panel", bins: "Sequence[Bin]") -> None:
    axes = panel.add_axes(_UPPER)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
    stated, true = [found.mean_probability for found in bins], [found.share_positive for found in bins]
    axes.plot(stated, true, "o-", color=INDICATOR.colour, clip_on=False)
    axes.set(xlabel="stated probability", ylabel="share of label 1", xlim=(0, 1.01), ylim=(0, 1.01))
    below = panel.add_axes(_LOWER)
    widths = [found.high - found.low for found in bins]
    below.bar([found.low for found in bins], [found.n for found in bins], widths, align="edge", color=INDICATOR.colour)
    below.set(ylabel="pairs", xlim=(0, 1.01), xticks=[])
