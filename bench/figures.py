"""The figures of a run as a table and as a plot."""

from pathlib import Path
from typing import Any

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
    *("prefix_speedup", "max_score_difference", "equal"),
)
_BAR, _LEFT, _WIDTH = 22, 190, 720


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
