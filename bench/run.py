"""What monitoring costs here, beside what a user would do without scopewatch, in one run on one machine.

    make bench            or        python bench/run.py --help

For every subject (`subjects.py`) the contenders (`contenders.py`) and a real server (`timed_calls.py`) take turns over
the same pairs, round by round, so that noise hits all alike; every round has new pairs of the same lengths. Their
watched activations are compared, and the run fails if a rule of `equality.py` does not hold, which it names. Prints a
table; writes `results/{device}.json` and `.svg`.
"""

import argparse
import gc
import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import width
from ceilings import copy_bytes_per_s
from contenders import (
    BATCH,
    Contender,
    config_for,
    dtype_on,
    engine_of,
    expert,
    saelens,
    scopewatch,
    transformers,
)
from equality import peaks, scores_of
from figures import print_report, summary, write_plot
from rounds import REFERENCE, Bench, Measured, allocated, prefix_speedup
from scopewatch.engine.build import Engine
from scopewatch.types import TokenisedPair
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
from timed_calls import server

_SHAPES = {
    "gemma-3-270m": (gemma3_270m, (12,)),
    "gemma-2-2b": (gemma2_2b, (12, 20)),
    "gemma-2-9b": (gemma2_9b, (20, 31)),
}
_SUBJECTS = {"cpu": {"bundled": 64, "gemma-3-270m": 16}, "cuda": {"bundled": 512, "gemma-2-2b": 512, "gemma-2-9b": 512}}
"""The subjects that are measured on each kind of device, and the number of pairs in a round of each."""


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
    if broken := [f"{name}: {rule}" for name, subject in report["subjects"].items() for rule in subject["broken"]]:
        raise SystemExit("rules that do not hold (docs/benchmarks.md tells them):\n" + "\n".join(broken))


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
    before = allocated(device)
    engine = engine_of(config)
    measured = Measured(device_mib=(allocated(device) - before) / 2**20 if device.type == "cuda" else None)
    contenders: dict[str, Contender] = {
        "saelens": saelens(subject, device),
        REFERENCE: transformers(subject, device),
        "expert": expert(subject, device),
        "engine": scopewatch(subject, engine, engine.max_batch_tokens),
    }
    if count > BATCH:
        contenders["expert_sorted"] = expert(subject, device, by_length=True)
    set_thresholds(subject, engine, contenders["engine"])
    # The contenders' libraries leave this process 600,000 objects, which a caller of a service has not; to search them
    # would take 0.2 s now and then.
    gc.collect()
    gc.freeze()
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
    found = scores_of(peaks(tokens, read([pair.ids for pair in tokens])))
    write_watchlist(subject, np.quantile(found, 0.95, axis=0).tolist())


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
