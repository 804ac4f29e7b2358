"""The figures of a run: worked out from the rounds, printed as a table, and drawn as a plot."""

import statistics
from pathlib import Path
from typing import Any

from equality import RULES
from rounds import Bench

_TITLES = {
    "saelens": "SAELens",
    "transformers": "transformers",
    "expert": "by hand",
    "expert_sorted": "by hand, sorted",
    "engine": "scopewatch",
}
_FIGURES = (
    *("ratio_vs_saelens", "ratio_vs_transformers", "ratio_vs_expert", "ratio_vs_expert_sorted", "service_overhead"),
    *("flagged", "cache_hit_pairs_per_s", "unary_rps", "p50_ms", "p99_ms", "lone_512_p50_ms"),
    *("start_s", "rss_mib", "device_mib"),
    *("prefix_speedup", "max_pooled_difference", "verdicts_changed", "equal"),
)
_BAR, _LEFT, _WIDTH = 22, 190, 720


def summary(bench: Bench, *, dtype: str) -> dict[str, Any]:
    """The figures of one subject that are kept: medians over rounds, and the GEMM rate of the best shape."""
    subject, measured, count = bench.subject, bench.measured, len(bench.sizes)
    seconds = {name: statistics.median(times) for name, times in measured.seconds.items()}
    rates = {name: statistics.median(calls.pairs_per_s) for name, calls in measured.calls.items()}
    # Ratios within a round, since the machine may be slower in one round than in another.
    ratios = {
        name: statistics.median(theirs / ours for theirs, ours in zip(times, measured.seconds["engine"], strict=True))
        for name, times in measured.seconds.items()
    }
    service = [
        rate * took / count
        for rate, took in zip(measured.calls["batch_computed"].pairs_per_s, measured.seconds["engine"], strict=True)
    ]
    gemm = {shape: statistics.median(rates) for shape, rates in measured.gemm.items()}
    peak = max(gemm.values())
    worst = {name: difference.worst for name, difference in measured.difference.items()}
    rules = RULES[dtype]
    broken = [f"{name} {said}" for name, found in measured.difference.items() for said in found.broken(rules)] + [
        f"service {said}" for said in measured.judged.broken(rules)
    ]
    tokens = sorted(measured.tokens)
    return {
        "reader": subject.config.model_type,
        "max_batch_tokens": bench.engine.max_batch_tokens,
        "layers_run": subject.layers_run,
        "watched": len(subject.feature_keys),
        "dtype": dtype,
        "tokens": {"pairs": count, "least": tokens[0], "median": statistics.median(tokens), "most": tokens[-1]}
        | {"total": sum(tokens)},
        "pairs_per_s": {name: round(count / took, 2) for name, took in seconds.items()},
        "tokens_per_s": {name: round(sum(tokens) / took) for name, took in seconds.items()},
        "ratio_vs_saelens": round(ratios["saelens"], 2),
        "ratio_vs_transformers": round(ratios["transformers"], 2),
        "ratio_vs_expert": round(ratios["expert"], 2),
        "ratio_vs_expert_sorted": round(ratios["expert_sorted"], 2) if "expert_sorted" in ratios else None,
        "gemm_gflops_per_s": {shape: round(rate / 1e9, 1) for shape, rate in gemm.items()},
        "gemm_fraction": {
            name: round(statistics.median(measured.flops) / took / peak, 3) for name, took in seconds.items()
        },
        "grpc_pairs_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "service_overhead": round(1 - statistics.median(service), 3),
        "flagged": round(statistics.fmean(measured.flagged), 2),
        "cache_hit_pairs_per_s": round(rates["batch_cached"], 1),
        "unary_rps": round(rates["unary_64_cached"], 1),
        "p50_ms": round(measured.calls["unary_1_cached"].p_ms(50), 2),
        "p99_ms": round(measured.calls["unary_1_cached"].p_ms(99), 2),
        "lone_512_p50_ms": round(measured.calls["lone_512_computed"].p_ms(50), 1),
        "start_s": bench.served.ready["start_s"],
        "start_parts_s": bench.served.ready["start_parts_s"],
        "rss_mib": bench.served.peak_resident_mib,
        "device_mib": measured.device_mib and round(measured.device_mib),
        "prefix_speedup": round(measured.prefix_speedup, 2),
        "max_difference": worst,
        "max_pooled_difference": measured.judged.peaks.worst,
        "verdicts_changed": measured.judged.changed,
        "differences": {name: difference.figures() for name, difference in measured.difference.items()}
        | {"service": measured.judged.peaks.figures()},
        "broken": broken,
        "equal": not broken,
        "seconds": {name: [round(took, 3) for took in times] for name, times in measured.seconds.items()},
        "cpu_seconds": {name: [round(took, 3) for took in times] for name, times in measured.cpu_seconds.items()},
    }


def print_report(report: dict[str, Any]) -> None:
    facts = report["machine"]
    print(
        f"\n{facts['cpu']}, {facts['cores']} cores, {facts['device']}; each with {facts['torch_threads']} torch threads"
    )
    print(f"medians of {facts['rounds']} rounds; load {facts['load_before']} before, {facts['load_after']} after")
    print(f"copy {report['copy_gb_per_s']} GB/s")
    for name, subject in report["subjects"].items():
        tokens = subject["tokens"]
        print(
            f"\n{name}: {subject['layers_run']} layers, {subject['watched']} features, {subject['dtype']}; "
            f"{tokens['pairs']} pairs of {tokens['least']} to {tokens['most']} tokens, median {tokens['median']:.0f}"
        )
        print(f"GEMM peak {max(subject['gemm_gflops_per_s'].values())} GFLOP/s")
        print(f"{'contender':20}{'pairs/s':>10}{'tokens/s':>10}{'of GEMM':>9}{'difference':>12}")
        for contender in subject["pairs_per_s"]:
            title = _TITLES[contender]
            print(
                f"{title:20}{subject['pairs_per_s'][contender]:10.2f}{subject['tokens_per_s'][contender]:10}"
                f"{subject['gemm_fraction'][contender]:9.2f}{subject['max_difference'][contender]:12.1e}"
            )
        for way, rate in subject["grpc_pairs_per_s"].items():
            print(f"{'gRPC ' + way:24}{rate:10.1f} pairs/s")
        for figure in _FIGURES:
            print(f"  {figure:24}{subject[figure]!s:>12}")
        print("  start:", ", ".join(f"{part} {seconds} s" for part, seconds in subject["start_parts_s"].items()))
    print(f"\nwidth_1m_over_16k {report.get('width_1m_over_16k')}")


def write_plot(report: dict[str, Any], file: Path) -> None:
    """Pairs per second of every contender, one block of bars for each subject, as SVG."""
    rows: list[str] = []
    y = 30
    for name, subject in report["subjects"].items():
        rates = {_TITLES[key]: value for key, value in subject["pairs_per_s"].items()}
        rates["scopewatch by gRPC"] = subject["grpc_pairs_per_s"]["batch_computed"]
        rows.append(f'<text x="10" y="{y}" font-weight="bold">{name}: pairs/s</text>')
        for title, rate in rates.items():
            y += _BAR
            length = max(1, round((_WIDTH - _LEFT - 80) * rate / max(rates.values())))
            colour = "#2a6f97" if title.startswith("scopewatch") else "#b0b0b0"
            rows.append(f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{title}</text>')
            rows.append(f'<rect x="{_LEFT}" y="{y}" width="{length}" height="{_BAR - 6}" fill="{colour}"/>')
            rows.append(f'<text x="{_LEFT + length + 6}" y="{y + 12}">{rate:.2f}</text>')
        y += 2 * _BAR
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" font-family="sans-serif"'
    file.write_text("\n".join([f'{head} font-size="13">', *rows, "</svg>"]) + "\n")
