"""Are the texts, and what they do inside the reader, still those that the thresholds were measured on?"""

from __future__ import annotations

from typing import Any

from panels import Query, board, lines, rows, watchlists

_OF = 'job=~"$job", watchlist=~"$watchlist"'


def dashboard() -> Any:
    about = "Are the texts, and what they do inside the reader, still those that the thresholds were measured on?"
    made = board("scopewatch-drift", "scopewatch: drift", about, watchlists())
    for panel in (*_indicators(), *_features(), *_input(), *_cards()):
        made.with_panel(panel)
    return made


def _psi(window: str) -> list[Query]:
    of = "watchlist_indicator:scopewatch_indicator_psi"
    return [
        Query(f"{of}:ratio{window}{{{_OF}}}", "{{watchlist}} {{indicator}}"),
        Query(f"max({of}_floor:ratio{window}{{{_OF}}})", "largest noise floor"),
        Query("vector(0.25)" if window == "1h" else "vector(0.1)", "threshold of the alert"),
    ]


def _indicators() -> list[Any]:
    about = "How far the scores' bins are from the reference's. The alert also wants four times the noise floor."
    counted = f"watchlist_indicator:scopewatch_indicator_pairs:increase1h{{{_OF}}}"
    return [
        lines("PSI of scores, one hour", about, "none", *_psi("1h")),
        lines("PSI of scores, one day", about, "none", *_psi("1d")),
        lines(
            "Pairs counted in the last hour",
            "Below 500 there is no PSI.",
            "short",
            Query(counted, "{{watchlist}} {{indicator}}"),
        ),
    ]


def _features() -> list[Any]:
    psi = f"topk(10, watchlist_indicator_feature:scopewatch_feature_psi:ratio1h{{{_OF}}})"
    fired = 'topk(10, sum by (feature) (rate(scopewatch_feature_fired_pairs_total{job=~"$job"}[$__rate_interval])))'
    silent = (
        f'watchlist_indicator_feature_bin:scopewatch_feature_pairs:ratio1h{{{_OF}, bin="0"}}'
        f' - watchlist_indicator_feature_bin:scopewatch_feature_reference:ratio{{{_OF}, bin="0"}}'
    )
    return [
        lines("PSI of features, the ten largest", "Which terms of which indicator have moved.", "none",
              Query(psi, "{{indicator}} {{feature}}")),
        lines("Features that fall silent, the ten largest", "By how much the share of pairs without them grew.", "percentunit",
              Query(f"topk(10, {silent})", "{{indicator}} {{feature}}")),
        lines("Features that fire most", "Pairs a second in which each fires.", "pairs/s", Query(fired, "{{feature}}")),
    ]  # fmt: skip


def _input() -> list[Any]:
    buckets = 'sum by (segment, le) (rate(scopewatch_pair_tokens_bucket{job=~"$job"}[$__rate_interval]))'
    rewritten = 'sum by (how) (rate(scopewatch_rewritten_pairs_total{job=~"$job"}[$__rate_interval]))'
    job = '{job=~"$job"}'
    return [
        lines("Length, median", "In tokens, of what was sent.", "short",
              Query(f"histogram_quantile(0.5, {buckets})", "{{segment}}")),
        lines("Length against the same hour before", "Largest difference of the two distribution functions.", "percentunit",
              Query(f"segment:scopewatch_pair_tokens_shift:ratio1h{job}", "{{segment}}")),
        lines("Scripts of responses", "Share of the responses by their main script.", "percentunit",
              Query(f"script:scopewatch_pair_scripts:ratio1h{job} > 0.005", "{{script}}"), stacked=True),
        lines("PSI of scripts", "Against the same hour a week ago, or a day ago.", "none",
              Query(f"job:scopewatch_pair_scripts_psi:ratio1h{job}", "{{job}}")),
        lines("Cut pairs", "Share of the pairs cut to fit the reader.", "percentunit",
              Query(f"segment:scopewatch_truncated_pairs:ratio1h{job}", "{{segment}}")),
        lines("Hidden letters", "Characters that hide or imitate letters, for each token.", "none",
              Query(f"kind:scopewatch_odd_characters:ratio1h{job}", "{{kind}}")),
        lines("Rewritten by the chat template", "Pairs whose texts it changed, or whose roles it refused.", "pairs/s",
              Query(rewritten, "{{how}}")),
        lines("Pairs that do not add up", "Received, but neither scored nor failed nor on their way: 0.", "short",
              Query(f"instance_watchlist:scopewatch_pairs:residual{{{_OF}}}", "{{instance}} {{watchlist}}")),
    ]  # fmt: skip


def _cards() -> list[Any]:
    return [
        lines("Thresholds that were not measured on what runs", "Without a card, or with one made on something else.", "short",
              Query(f"max by (watchlist) (scopewatch_uncalibrated_indicators{{{_OF}}})", "{{watchlist}} uncalibrated"),
              Query(f"max by (watchlist) (scopewatch_card_mismatches{{{_OF}}})", "{{watchlist}} made on something else")),
        rows("References", "Benign pairs that the card's bins were made of.",
             f"max by (watchlist, indicator, reference) (scopewatch_reference_pairs{{{_OF}}})"),
        rows("SAEs", "What encodes the reader's activations.", 'count by (sae, hookpoint, architecture, digest) (scopewatch_sae_info{job=~"$job"})'),
    ]  # fmt: skip
