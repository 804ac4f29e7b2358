"""`plan`: what a load needs."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from scopewatch.cli.settings import AddCommand


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("plan", _run, "Replicas, memory and settings for a load, from measured curves. Computes nothing.")
    parser.add_argument("--pairs-per-s", type=float, required=True, help="load, all replicas together")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of a pair, template included")
    curve = parser.add_mutually_exclusive_group(required=True)
    curve.add_argument("--device", metavar="NAME", help="a curve that comes with scopewatch")
    curve.add_argument("--measured", type=Path, metavar="FILE.json", help="a curve that `bench --out` wrote")
    parser.add_argument("--hit-rate", type=float, default=0.0, help="share of the pairs that the cache answers")
    parser.add_argument("--utilisation", type=float, default=0.7, help="share of its time that a replica may be busy")
    parser.add_argument("--p95-ms", type=float, help="latency that 95 of 100 pairs keep; adds replicas where needed")
    parser.add_argument("--queue-wait-s", type=float, default=5.0, help="wait at which further pairs are refused")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
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
