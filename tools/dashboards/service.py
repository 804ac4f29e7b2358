"""Does the service keep up, and what holds it up?"""

from __future__ import annotations

from typing import Any

from panels import HALF, Query, bars, board, choice, lines

_OF = 'job=~"$job", instance=~"$instance"'
_RATE = "[$__rate_interval]"


def rate(metric: str, *by: str, of: str = "") -> str:
    """The rate of a counter, summed up to some labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}{{{_OF}{of}}}{_RATE}))"


def mean(histogram: str) -> str:
    """The mean of what a histogram observed."""
    return f"{rate(histogram + '_sum')} / ({rate(histogram + '_count')} > 0)"


def quantile(q: float, histogram: str, *by: str) -> str:
    return f"histogram_quantile({q}, {rate(histogram + '_bucket', 'le', *by)})"


def dashboard() -> Any:
    about = "Does the service keep up, and what holds it up?"
    instances = choice("instance", "Process", 'label_values(scopewatch_build_info{job=~"$job"}, instance)')
    made = board("scopewatch-service", "scopewatch: service", about, instances)
    for panel in (*_queue(), *_engine(), *_cache(), *_beside(), *_process()):
        made.with_panel(panel)
    return made


def _queue() -> list[Any]:
    return [
        lines("Wait for the engine", "How long the engine needs for what waits.", "s",
              Query(f"instance:scopewatch_queue_wait:seconds5m{{{_OF}}}", "{{instance}}")),
        lines("Tokens that wait", "Queued tokens; beyond max_queue_tokens pairs are refused.", "short",
              Query(f"scopewatch_queue_tokens{{{_OF}}}", "{{instance}}")),
        lines("Pairs on their way", "Pairs that came in and have no answer yet.", "short",
              Query(f"sum by (instance) (scopewatch_pairs_in_flight{{{_OF}}})", "{{instance}}")),
        lines("Dropped, and read in vain", "Pairs that left the queue unread, and pairs read whose callers had left.", "pairs/s",
              Query(rate("scopewatch_queue_dropped_pairs_total", "reason"), "{{reason}}"),
              Query(rate("scopewatch_unwanted_pairs_total"), "read in vain")),
        lines("Refused", "Share of the pairs for which there was no room.", "percentunit",
              Query('job:scopewatch_refused_pairs:ratio_rate10m{job=~"$job"}', "{{job}}")),
        lines("Stages, 95 %", "Within which time 95 % of the pairs pass each stage.", "s",
              Query(quantile(0.95, "scopewatch_stage_seconds", "stage"), "{{stage}}")),
    ]  # fmt: skip


def _engine() -> list[Any]:
    reused = f"{rate('scopewatch_reused_tokens_total')} / ({rate('scopewatch_batch_tokens_sum')} > 0)"
    windows = f"{rate('scopewatch_windows_total')} / ({rate('scopewatch_pairs_total')} > 0)"
    return [
        lines("Tokens a second", "Tokens read, by what they belong to.", "short",
              Query(rate("scopewatch_tokens_total", "segment"), "{{segment}}"), stacked=True),
        lines("Size of batches", "Pairs, and tokens, in a mean batch.", "short",
              Query(mean("scopewatch_batch_pairs"), "pairs"), Query(mean("scopewatch_batch_tokens"), "tokens")),
        lines("Known tokens", "Share of the batches' tokens that were known from texts before.", "percentunit", Query(reused, "reused")),
        lines("Passes for a pair", "More than 1 where responses do not fit one pass.", "none", Query(windows, "passes")),
    ]  # fmt: skip


def _cache() -> list[Any]:
    return [
        lines("Cache look-ups", "Share by result.", "percentunit",
              Query('result:scopewatch_cache_requests:ratio_rate5m{job=~"$job"}', "{{result}}"), stacked=True),
        lines("Cache writes", "By result.", "ops", Query(rate("scopewatch_cache_writes_total", "result"), "{{result}}")),
        lines("Breaker", "1 while Redis is not asked.", "none", Query(f"scopewatch_cache_breaker_open{{{_OF}}}", "{{instance}}")),
    ]  # fmt: skip


def _beside() -> list[Any]:
    expiry = f"min by (instance, setting) (scopewatch_certificate_expiry_timestamp_seconds{{{_OF}}}) - time()"
    age = f"time() - max by (instance) (scopewatch_canary_last_run_timestamp_seconds{{{_OF}}})"
    return [
        lines("Explanations", "By what became of them.", "ops",
              Query(rate("scopewatch_explanations_total", "outcome"), "{{outcome}}")),
        lines("Time of explanations, 95 %", "From asking until they were made.", "s",
              Query(quantile(0.95, "scopewatch_explanation_seconds"), "95 %")),
        lines("Canary runs", "By result, and how long ago the last one was.", "none",
              Query(f"sum by (result) (increase(scopewatch_canary_runs_total{{{_OF}}}{_RATE}))", "{{result}}"),
              Query(f"{age} < 3600", "{{instance}}: seconds since the last")),
        lines("Reloads of watchlists", "Version, failed now, and readings by result.", "none",
              Query(f"scopewatch_watchlist_version{{{_OF}}}", "{{instance}} version"),
              Query(f"scopewatch_watchlist_reload_failed{{{_OF}}}", "{{instance}} failed"),
              Query(f"sum by (result) (increase(scopewatch_watchlist_reloads_total{{{_OF}}}{_RATE}))", "{{result}}")),
        lines("Shadow watchlists", "Pairs judged beside, other verdicts than the live one's, and judgements left out.", "pairs/s",
              Query(rate("scopewatch_shadow_pairs_total", "watchlist"), "{{watchlist}} judged"),
              Query(rate("scopewatch_shadow_disagreements_total", "watchlist"), "{{watchlist}} disagrees"),
              Query(rate("scopewatch_shadow_skipped_total", "reason"), "left out: {{reason}}")),
        lines("Certificate", "How long it is valid still.", "s", Query(expiry, "{{instance}} {{setting}}"),
              Query(f'increase(scopewatch_certificate_reads_total{{{_OF}, result="refused"}}{_RATE})', "{{instance}} refused")),
    ]  # fmt: skip


def _process() -> list[Any]:
    return [
        lines("Memory", "Resident size.", "bytes", Query(f"process_resident_memory_bytes{{{_OF}}}", "{{instance}}")),
        lines("CPU", "Cores in use.", "short", Query(f"rate(process_cpu_seconds_total{{{_OF}}}{_RATE})", "{{instance}}")),
        lines("Messages", "gRPC messages in and out, and calls begun.", "ops",
              Query(rate("grpc_server_msg_received_total"), "received"), Query(rate("grpc_server_msg_sent_total"), "sent"),
              Query(rate("grpc_server_started_total"), "calls begun")),
        bars("Start", "What each part of the last start took.", "s",
             Query(f"max by (part) (scopewatch_startup_seconds{{{_OF}}})", "{{part}}"), width=HALF),
    ]  # fmt: skip
