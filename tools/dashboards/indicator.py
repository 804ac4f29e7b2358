"""What does one indicator say, and how does that compare with its card?"""

from __future__ import annotations

from typing import Any

from panels import Query, bars, board, choice, densities, lines, watchlists

_OF = 'job=~"$job", watchlist=~"$watchlist", indicator=~"$indicator"'
_LEGEND = "{{watchlist}} {{indicator}}"


def dashboard() -> Any:
    about = "What does an indicator say, and how does that compare with its card?"
    names = choice(
        "indicator",
        "Indicator",
        'label_values(scopewatch_indicator_score_count{job=~"$job", watchlist=~"$watchlist"}, indicator)',
    )
    made = board("scopewatch-indicator", "scopewatch: indicator", about, watchlists(), names)
    for panel in (*_scores(), *_reference(), *_features()):
        made.with_panel(panel)
    return made


def _scores() -> list[Any]:
    buckets = f"sum by (le) (increase(scopewatch_indicator_score_bucket{{{_OF}}}[$__rate_interval]))"
    each = f"sum by (watchlist, indicator, le) (rate(scopewatch_indicator_score_bucket{{{_OF}}}[$__rate_interval]))"
    flags = f"watchlist_indicator:scopewatch_indicator_flags:ratio1h{{{_OF}}}"
    severity = (
        f"sum by (watchlist, indicator, severity) (rate(scopewatch_indicator_flags_total{{{_OF}}}[$__rate_interval]))"
    )
    return [
        densities("Scores", "How many pairs got scores in which range. Choose one indicator.", buckets),
        lines("Scores and thresholds", "The score that so many pairs stay below, and the threshold.", "none",
              *(Query(f"histogram_quantile({q}, {each})", f"{_LEGEND} {q:.0%}") for q in (0.5, 0.95)),
              Query(f"max by (watchlist, indicator) (scopewatch_indicator_threshold{{{_OF}}})", f"{_LEGEND} threshold"),
              from_zero=False),
        lines("Flagged share", "Of the last hour, of the day before it, and of the card's benign pairs.", "percentunit",
              Query(flags, f"{_LEGEND} now"),
              Query(f"watchlist_indicator:scopewatch_indicator_flags:ratio1d{{{_OF}}} offset 1h", f"{_LEGEND} day before"),
              Query(f"watchlist_indicator:scopewatch_indicator_reference_flags:ratio{{{_OF}}}", f"{_LEGEND} card")),
        lines("Flags by severity", "How many pairs a second are flagged.", "pairs/s", Query(severity, f"{_LEGEND} {{{{severity}}}}")),
    ]  # fmt: skip


def _reference() -> list[Any]:
    psi = "watchlist_indicator:scopewatch_indicator_psi:ratio1h"
    skipped = (
        f"sum by (watchlist, indicator, reason) (rate(scopewatch_skipped_indicators_total{{{_OF}}}[$__rate_interval]))"
    )
    return [
        bars("Scores by bin, last hour", "Share of the pairs in each bin of the card's reference.", "percentunit",
             Query(f"watchlist_indicator_bin:scopewatch_indicator_pairs:ratio1h{{{_OF}}}", f"{_LEGEND} {{{{bin}}}}")),
        bars("Scores by bin, reference", "Share of the card's benign pairs in each of these bins.", "percentunit",
             Query(f"watchlist_indicator_bin:scopewatch_indicator_reference:ratio{{{_OF}}}", f"{_LEGEND} {{{{bin}}}}")),
        lines("PSI of scores", "How far the bins are from the reference's, and what chance alone gives.", "none",
              Query(f"{psi}{{{_OF}}}", f"{_LEGEND} PSI"),
              Query(f"watchlist_indicator:scopewatch_indicator_psi_floor:ratio1h{{{_OF}}}", f"{_LEGEND} noise floor")),
        lines("Not scored", "Indicators that had nothing to read, by reason.", "pairs/s", Query(skipped, f"{_LEGEND} {{{{reason}}}}")),
    ]  # fmt: skip


def _features() -> list[Any]:
    off = 'bin="0"'
    shadow = 'sum by (watchlist, indicator) (rate(scopewatch_shadow_flags_total{job=~"$job", indicator=~"$indicator"}[$__rate_interval]))'
    return [
        lines("PSI of features, the ten largest", "Which terms of the score have moved.", "none",
              Query(f"topk(10, watchlist_indicator_feature:scopewatch_feature_psi:ratio1h{{{_OF}}})", "{{feature}}")),
        bars("Pairs in which features fire", "Share of the last hour's pairs (now) and of the reference's.", "percentunit",
             Query(f"1 - watchlist_indicator_feature_bin:scopewatch_feature_pairs:ratio1h{{{_OF}, {off}}}", "{{feature}} now"),
             Query(f"1 - watchlist_indicator_feature_bin:scopewatch_feature_reference:ratio{{{_OF}, {off}}}", "{{feature}} reference")),
        lines("Canaries", "How far the scores of recorded pairs are off.", "percentunit",
              Query(f"max by (watchlist, indicator) (scopewatch_canary_deviation_ratio{{{_OF}}})", _LEGEND)),
        lines("Flags of shadow watchlists", "What watchlists on trial would flag.", "pairs/s", Query(shadow, _LEGEND)),
    ]  # fmt: skip
