"""`bench` and `plan`: what this machine does, and what a load needs."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import SetupError


def add(command: AddCommand) -> None:
    """Adds the commands."""
    bench = command("bench", _bench, "Measure this machine with your watchlist. Takes about a minute.")
    bench.add_argument("--rounds", type=int, default=3, help="how often each figure is taken; medians are kept")
    bench.add_argument("--out", type=Path, help="JSON file to write, for `plan --measured`")
    add_settings(bench, ["watchlist", *ENGINE_SETTINGS])

    plan = command("plan", _plan, "Replicas, memory and settings for a load, from measured curves. Computes nothing.")
    plan.add_argument("--pairs-per-s", type=float, required=True, help="load, all replicas together")
    plan.add_argument("--tokens", type=int, required=True, help="tokens of a pair, template included")
    curve = plan.add_mutually_exclusive_group(required=True)
    curve.add_argument("--device", metavar="NAME", help="a curve that comes with scopewatch")
    curve.add_argument("--measured", type=Path, metavar="FILE.json", help="a curve that `bench --out` wrote")
    plan.add_argument("--hit-rate", type=float, default=0.0, help="share of the pairs that the cache answers")
    plan.add_argument("--utilisation", type=float, default=0.7, help="share of its time that a replica may be busy")
    plan.add_argument("--p95-ms", type=float, help="latency that 95 of 100 pairs keep; adds replicas where needed")
    plan.add_argument("--queue-wait-s", type=float, default=5.0, help="wait at which further pairs are refused")
    plan.add_argument("--json", action="store_true", help="print JSON")


def _bench(args: argparse.Namespace) -> int:
    from scopewatch.capacity.as_text import describe_curve
    from scopewatch.capacity.benchmark import benchmark

    config = settings(args)
    logs.configure("warning", "text")
    out: Path | None = args.out
    # A minute before it is needed.
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise SetupError(f"--out {out}: expected a file in a folder that exists")
    curve = benchmark(config, args.rounds, lambda text: print(text, file=sys.stderr, flush=True))
    print(describe_curve(curve))
    if out:
        try:
            out.write_text(curve.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise SetupError(f"--out {out}: cannot be written: {error.strerror}") from None
    return 0


def _plan(args: argparse.Namespace) -> int:
    from scopewatch.capacity.as_text import describe_plan, kustomization
    from scopewatch.capacity.curve import read_curve, shipped_curve
    from scopewatch.capacity.plan import Load, plan

    names = ("pairs_per_s", "tokens", "hit_rate", "utilisation", "p95_ms", "queue_wait_s")
    load = Load(**{name: getattr(args, name) for name in names})
    curve = shipped_curve(args.device) if args.device is not None else read_curve(args.measured)
    worked_out = plan(load, curve)
    if args.json:
        document = asdict(worked_out) | {
            "load": asdict(load),
            "measured": curve.model_dump(mode="json", exclude={"points", "service", "memory"}),
            "kustomization": kustomization(worked_out),
        }
        print(json.dumps(document, ensure_ascii=False))
    else:
        print(describe_plan(worked_out, curve))
    return 0
