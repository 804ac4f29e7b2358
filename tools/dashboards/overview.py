"""Is everything well, and what is found?"""

from __future__ import annotations

from typing import Any

from panels import FULL, THIRD, Query, board, lines, number, rows

_RECEIVED = 'sum(rate(scopewatch_received_pairs_total{job=~"$job"}[$__rate_interval]))'
_SCORED = 'sum(rate(scopewatch_pairs_total{job=~"$job"}[$__rate_interval]))'


def share(verdict: str) -> str:
    """The share of the scored pairs that get a verdict."""
    return f'sum(rate(scopewatch_pairs_total{{job=~"$job", verdict="{verdict}"}}[$__rate_interval])) / ({_SCORED} > 0)'


def dashboard() -> Any:
    made = board("scopewatch-overview", "scopewatch: overview", "Is everything well, and what is found?")
    for panel in (*_numbers(), *_curves(), *_tables()):
        made.with_panel(panel)
    return made


def _numbers() -> list[Any]:
    failed = 'sum(rate(scopewatch_failed_pairs_total{job=~"$job", reason!="cancelled"}[$__rate_interval]))'
    return [
        number(
            "Ready",
            "Processes that take pairs.",
            "none",
            'sum(scopewatch_ready{job=~"$job"})',
            bad=1,
            worse_above=False,
        ),
        number("Pairs", "Pairs that come in.", "pairs/s", _RECEIVED),
        number("Flagged", "Share of the scored pairs.", "percentunit", share("flag")),
        number("Incomplete", "Share that was not read whole.", "percentunit", share("incomplete"), bad=0.05),
        number("Failed", "Share without a verdict.", "percentunit", f"{failed} / ({_RECEIVED} > 0)", bad=0.01),
        number(
            "Canaries",
            "1 where all score as recorded.",
            "none",
            'min(scopewatch_canary_ok{job=~"$job"})',
            bad=1,
            worse_above=False,
        ),
    ]


def _curves() -> list[Any]:
    by_verdict = 'sum by (verdict) (rate(scopewatch_pairs_total{job=~"$job"}[$__rate_interval]))'
    by_reason = 'sum by (reason) (rate(scopewatch_failed_pairs_total{job=~"$job"}[$__rate_interval])) > 0'
    by_code = 'sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{job=~"$job"}[$__rate_interval]))'
    seconds = (
        'sum by (le) (rate(grpc_server_handling_seconds_bucket{job=~"$job", grpc_method="Score"}[$__rate_interval]))'
    )
    quantiles = [Query(f"histogram_quantile({q}, {seconds})", f"{q:.0%}") for q in (0.5, 0.95, 0.99)]
    flags = "watchlist_indicator:scopewatch_indicator_flags:ratio1h"
    burn = 'slo:sli_error:ratio_rate1h{job=~"$job"}'
    return [
        lines("Pairs by verdict", "How many pairs a second got which verdict.", "pairs/s", Query(by_verdict, "{{verdict}}"), stacked=True),
        lines("Pairs without a verdict", "Why pairs got an error.", "pairs/s", Query(by_reason, "{{reason}}"), stacked=True),
        lines("Flagged in the last hour, by indicator", "Share of the pairs that each indicator flags.", "percentunit",
              Query(f'{flags}{{job=~"$job"}}', "{{watchlist}} {{indicator}}")),
        lines("Latency of Score", "Within which time so many calls are answered.", "s", *quantiles),
        lines("Calls by status", "How many calls a second ended with which status.", "calls/s",
              Query(by_code, "{{grpc_method}} {{grpc_code}}")),
        lines("Errors against objectives", "Share of pairs without a verdict (at most 0.1 %) and of calls slower than a second "
              "(at most 1 %), over an hour.", "percentunit", Query(burn, "{{slo}}")),
    ]  # fmt: skip


def _tables() -> list[Any]:
    firing = 'ALERTS{alertname=~"Scopewatch.*", alertstate="firing"}'
    return [
        rows("Alerts that fire", "Each has a page in docs/runbooks.", firing, width=FULL),
        rows("Readers", "What reads, on which device.", 'scopewatch_reader_info{job=~"$job"}', width=THIRD),
        rows("Versions", "What runs.", 'scopewatch_build_info{job=~"$job"}', width=THIRD),
        rows(
            "Watchlists",
            "One digest for each name, except during a rollout.",
            'count by (watchlist, digest) (scopewatch_watchlist_info{job=~"$job"})',
            width=THIRD,
        ),
    ]
