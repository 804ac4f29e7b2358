"""What monitoring costs here, beside what a user would do without scopewatch, in one run on one machine.

    make bench            or        python bench/run.py --help

For every subject (`subjects.py`) the contenders (`contenders.py`) and a real server (`timed_calls.py`) take turns over
the same pairs, round by round, so that noise hits all alike; every round has new pairs of the same lengths. Their
watched activations are compared, and the run fails if they differ. Prints a table; writes `results/{device}.json` and
`.svg`.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import width
from ceilings import copy_bytes_per_s, gemm_flops_per_s, needed_flops
from contenders import (
    BATCH,
    Contender,
    Dense,
    config_for,
    dtype_on,
    engine_of,
    expert,
    saelens,
    scopewatch,
    transformers,
    watched_thresholds,
)
from equality import TOLERANCE, Difference, compare, scores, worst_score
from figures import print_report, write_plot
from scopewatch.client import pb
from scopewatch.engine.build import Engine
from scopewatch.server_process import RunningServer
from scopewatch.types import Pair, TokenisedPair
from subjects import (
    Subject,
    bundled,
    gemma2_2b,
    gemma2_9b,
    gemma3_270m,
    lengths,
    pairs,
    random_subject,
    write_watchlist,
)
from timed_calls import Calls, batches, peak_rss_mib, server, unary

REFERENCE = "transformers"
_SHAPES = {
    "gemma-3-270m": (gemma3_270m, (12,)),
    "gemma-2-2b": (gemma2_2b, (12, 20)),
    "gemma-2-9b": (gemma2_9b, (20, 31)),
}
_SUBJECTS = {"cpu": {"bundled": 64, "gemma-3-270m": 16}, "cuda": {"bundled": 512, "gemma-2-2b": 512, "gemma-2-9b": 512}}
"""By device: what is measured, and in rounds of how many pairs."""
_LONE_TOKENS = 512
_PREFIX_TOKENS = 400
_FLOW_S = 5.0
"""Of pairs sent in batches to the server, by the engine's own rate."""


@dataclass(slots=True)
class Measured:
    """One subject's rounds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of this process: on a machine shared with others, steadier than `seconds`."""
    calls: dict[str, Calls] = field(default_factory=dict)
    difference: dict[str, Difference] = field(default_factory=dict)
    score_difference: float = 0.0
    flagged: list[float] = field(default_factory=list)
    """Share of the pairs."""
    found: list[Dense] = field(default_factory=list)
    """The engine's activations in the last round."""
    flops: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prefix_speedup: float = 0.0
    gemm: dict[str, list[float]] = field(default_factory=dict)
    """FLOP/s by shape, the best of each round."""
    device_mib: float | None = None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--subjects", nargs="+", choices=["bundled", *_SHAPES], help="default: those for the device")
    parser.add_argument("--pairs", type=int, help="pairs of a round (default: 16 to 64 on a CPU, 512 on a GPU)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the medians are told (default: 5)")
    parser.add_argument("--cached-pairs", type=int, default=1024, help="pairs read from the cache in a round")
    parser.add_argument("--torch-threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--max-batch-tokens", type=int, default=0, help="default: what the service would take")
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest pair (default: 2048)")
    parser.add_argument("--watched", type=int, default=32, help="features watched of each SAE (default: 32)")
    parser.add_argument("--d-sae", type=int, default=16_384, help="width of the random SAEs (default: 16384)")
    parser.add_argument("--layers", nargs="+", type=int, help="watched layers of the random readers")
    parser.add_argument("--shape", nargs="+", default=[], metavar="NAME=N", help="other sizes of the random readers")
    parser.add_argument("--no-width", action="store_true", help="leave width_1m_over_16k out")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"), help="random weights are kept here")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    on_gpu = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(args.torch_threads)
    usual = _SUBJECTS[device.type]
    report: dict[str, Any] = {
        "machine": machine(args, device),
        "copy_gb_per_s": round(copy_bytes_per_s(device) / 1e9, 1),
        "subjects": {},
    }
    for name in args.subjects or usual:
        count = args.pairs or usual.get(name, 16)
        print(f"{name}: {args.rounds} rounds of {count} pairs", flush=True)
        report["subjects"][name] = measure(prepare(name, args, device), count, args, device)
        write(report, args.out, device)
    if not args.no_width:
        seconds = width.in_seconds()
        report["width_1m_over_16k"] = round(seconds["1m"] / seconds["16k"], 3)
        report["width_subject"] = "one layer of the Gemma 2 2B shape, 64 features, 1,024 tokens"
    write(report, args.out, device)
    print_report(report)
    if wrong := [name for name, subject in report["subjects"].items() if not subject["equal"]]:
        raise SystemExit(f"the contenders differ on {', '.join(wrong)}: see max_difference in the results")


def write(report: dict[str, Any], folder: Path, device: torch.device) -> None:
    """Keeps what there is so far."""
    report["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{device.type}.json").write_text(json.dumps(report, indent=2) + "\n")
    write_plot(report, folder / f"{device.type}.svg")


def prepare(name: str, args: argparse.Namespace, device: torch.device) -> Subject:
    """Writes a subject's files, unless they are there from an earlier run."""
    if name == "bundled":
        return bundled(args.scratch / name, watched=args.watched)
    shape, layers = _SHAPES[name]
    changes = {key: int(value) for key, _, value in (change.partition("=") for change in args.shape)}
    config, layers = shape(**changes), args.layers or layers
    key = hashlib.sha256(repr((config.to_json_string(), layers, args.d_sae)).encode()).hexdigest()[:12]
    folder = args.scratch / f"{name}-{key}"
    return random_subject(
        name, folder, config, layers=layers, d_sae=args.d_sae, watched=args.watched, device=device.type
    )


def measure(subject: Subject, count: int, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Every contender in turn over so many pairs, `args.rounds` times."""
    config = config_for(
        subject,
        threads=args.torch_threads,
        max_tokens=min(args.max_tokens, subject.config.max_position_embeddings),
        max_batch_tokens=args.max_batch_tokens,
        device=device,
    )
    before = _allocated(device)
    engine = engine_of(config)
    measured = Measured(device_mib=(_allocated(device) - before) / 2**20 if device.type == "cuda" else None)
    contenders: dict[str, Contender] = {
        "saelens": saelens(subject, device),
        REFERENCE: transformers(subject, device),
        "expert": expert(subject, device),
        "engine": scopewatch(subject, engine, engine.max_batch_tokens),
    }
    if count > BATCH:
        contenders["expert_sorted"] = expert(subject, device, by_length=True)
    set_thresholds(subject, engine, contenders["engine"])
    with server(config) as served:
        bench = Bench(subject, device, engine, contenders, served, lengths(count, engine.max_tokens), measured)
        bench.warm_up()
        for number in range(args.rounds):
            bench.offline_round(number)
            bench.served_round(number, args.cached_pairs)
            print(f"  round {number + 1} done, load {os.getloadavg()[0]:.1f}", flush=True)
        measured.prefix_speedup = prefix_speedup(engine, engine_of(config.model_copy(update={"prefix_cache_bytes": 0})))
        return summary(bench, dtype=str(dtype_on(device)).removeprefix("torch."))


def set_thresholds(subject: Subject, engine: Engine, read: Contender) -> None:
    """Sets each indicator's threshold so that about 5 % of pairs are over it, since a flagged pair is also logged."""
    made = engine.tokeniser.tokenise(pairs(lengths(48, 512), salt=50_000))
    tokens = [pair for pair in made if isinstance(pair, TokenisedPair)]
    found = scores(tokens, read([pair.ids for pair in tokens]))
    write_watchlist(subject, np.quantile(found, 0.95, axis=0).tolist())


@dataclass(slots=True)
class Bench:
    """One subject with everything that reads it, and what it took."""

    subject: Subject
    device: torch.device
    engine: Engine
    contenders: dict[str, Contender]
    served: RunningServer
    sizes: list[int]
    """Tokens wanted of each pair."""
    measured: Measured

    def warm_up(self) -> None:
        # Of two lengths: a kernel that is compiled is compiled for lengths that vary.
        ids = [pair.ids for pair in self._tokens(pairs([16, 300], salt=-1))]
        for own in (ids[:1], ids):
            self.contenders["engine"](own)
        for run in self.contenders.values():
            run(ids)

    def offline_round(self, number: int) -> None:
        """The contenders in turn over new pairs, compared; then the GEMM rate."""
        measured = self.measured
        ids = [pair.ids for pair in self._tokens(pairs(self.sizes, salt=number))]
        measured.tokens = [len(own) for own in ids]
        measured.flops.append(needed_flops(self.subject, measured.tokens))
        thresholds = watched_thresholds(self.subject)
        tolerance = TOLERANCE["bfloat16" if self.device.type == "cuda" else "float32"]
        found = {}
        for name, run in self.contenders.items():
            resting = _allocated(self.device, forget_peak=True)
            started, cpu_started = time.perf_counter(), time.process_time()
            found[name] = run(ids)
            measured.seconds.setdefault(name, []).append(time.perf_counter() - started)
            measured.cpu_seconds.setdefault(name, []).append(time.process_time() - cpu_started)
            if name == "engine" and number == 0 and measured.device_mib is not None:
                measured.device_mib += (torch.cuda.max_memory_allocated() - resting) / 2**20
        for name in self.contenders:
            difference = measured.difference.setdefault(name, Difference())
            compare(difference, found[REFERENCE], found[name], thresholds, tolerance)
        measured.found = found["engine"]
        for shape, rate in gemm_flops_per_s(self.subject.config, self.device, repeats=3).items():
            measured.gemm.setdefault(shape, []).append(rate)

    def served_round(self, number: int, cached_pairs: int) -> None:
        """The server over the same pairs, over new ones, and from its cache."""
        measured, served = self.measured, self.served

        def calls(name: str) -> Calls:
            return measured.calls.setdefault(name, Calls())

        # For about five seconds, so that what a burst waits for at its beginning and end does not count; the first are
        # those that the contenders read.
        repeats = max(1, min(8, round(_FLOW_S / measured.seconds["engine"][0])))
        made = pairs(self.sizes * repeats, salt=number)
        replies = batches(served, made, calls("batch_computed"), cached=False)[: len(self.sizes)]
        made = made[: len(self.sizes)]
        difference = worst_score(self._tokens(made), measured.found, replies)
        measured.score_difference = max(measured.score_difference, difference)
        measured.flagged.append(sum(reply.verdict == pb.VERDICT_FLAG for reply in replies) / len(replies))
        batches(served, _many(made, cached_pairs), calls("batch_cached"), cached=True)
        unary(served, pairs(self.sizes, salt=10_000 + number), calls("unary_64_computed"), cached=False)
        unary(served, _many(made, cached_pairs // 2), calls("unary_64_cached"), cached=True)
        unary(served, _many(made, cached_pairs // 4), calls("unary_1_cached"), cached=True, callers=1)
        lone = pairs([min(_LONE_TOKENS, self.engine.max_tokens)] * 2, salt=20_000 + number)
        unary(served, lone, calls("lone_512_computed"), cached=False, callers=1)

    def _tokens(self, made: Sequence[Pair]) -> list[TokenisedPair]:
        return [pair for pair in self.engine.tokeniser.tokenise(made) if isinstance(pair, TokenisedPair)]


def prefix_speedup(engine: Engine, forgetful: Engine) -> float:
    """How much faster pairs with a common beginning of 400 tokens are read than by an engine that reuses nothing.

    Eight pairs of about 500 tokens in one batch, new ones in each of three rounds, compared within a round.
    """
    ratios = []
    for number in range(3):
        (common,) = pairs([_PREFIX_TOKENS], salt=30_000 + number)
        own = pairs([100] * 8, salt=40_000 + number)
        made = [Pair(f"{common.prompt} {common.response} {pair.prompt}", pair.response) for pair in own]
        tokens = [pair for pair in engine.tokeniser.tokenise(made) if isinstance(pair, TokenisedPair)]
        seconds = []
        for runner in (forgetful.runner, engine.runner):
            started = time.perf_counter()
            runner([pair.ids for pair in tokens])
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _many(made: Sequence[Any], count: int) -> list[Any]:
    return list(made) * math.ceil(count / len(made))


def _allocated(device: torch.device, *, forget_peak: bool = False) -> int:
    if forget_peak and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def summary(bench: Bench, *, dtype: str) -> dict[str, Any]:
    """The figures that are kept; times and rates are medians over rounds, the GEMM rate is the best shape's."""
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
    rss = peak_rss_mib(bench.served)
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
        "rss_mib": rss and round(rss),
        "device_mib": measured.device_mib and round(measured.device_mib),
        "prefix_speedup": round(measured.prefix_speedup, 2),
        "max_difference": worst,
        "max_score_difference": measured.score_difference,
        "at_threshold": {name: asdict(difference) for name, difference in measured.difference.items()},
        "equal": max(*worst.values(), measured.score_difference) <= TOLERANCE[dtype],
        "seconds": {name: [round(took, 3) for took in times] for name, times in measured.seconds.items()},
        "cpu_seconds": {name: [round(took, 3) for took in times] for name, times in measured.cpu_seconds.items()},
    }


def machine(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Facts that the figures depend on."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    libraries = ("torch", "transformers", "sae-lens", "transformer-lens", "grpcio", "numpy")
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cpu": models[0] if models else platform.processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": args.torch_threads,
        "rounds": args.rounds,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
        "load_before": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
