"""Faults, attacks and load on the real server: does what it promises hold? Exits with 1 where a bound is broken.

    make chaos            or        python bench/chaos.py [--only draining bursts] [--scale 0.1] [--soak-s 600]

Every scenario starts `scopewatch serve` in processes of its own, does something to it, and holds what it measures to
bounds. Prints a table and writes `results/chaos.json`; what the file has of scenarios that are not run stays.
"""

import argparse
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.run import ATTACKS
from page import write_between
from scenarios.attacked import attacks
from scenarios.bursts import bursts
from scenarios.checks import Case
from scenarios.draining import draining
from scenarios.engines import engines
from scenarios.forged import forged
from scenarios.mixing import mixing, with_total
from scenarios.overload import overload
from scenarios.reloading import reloading
from scenarios.rolling import rolling
from scenarios.soak import soak

HERE = Path(__file__).parent
Scenario = Callable[[float], list[Case]]

SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "attacks": (attacks, 300),
    "draining": (draining, 600),
    "bursts": (bursts, 120),
    "overload": (overload, 240),
    "engines": (engines, 120),
    "forged": (forged, 60),
    "mixing": (mixing, 300),
    "soak": (soak, 240),
    "reloads": (reloading, 240),
    "rolling": (rolling, 600),
}
"""What is run, and the seconds that each may take at full size; what takes longer has failed."""
_HEAD = "| scenario | case | measured, and bound | before | |\n|---|---|---|---|---|"


def run(scenario: Scenario, scale: float, within_s: float) -> tuple[list[Case], str]:
    """Runs a scenario for at most so long; its cases, or why there are none."""

    def too_long(*_: object) -> None:
        # Of all that can be raised, an event loop lets this one through whichever task it meets.
        raise SystemExit(f"not done after {within_s:g} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, within_s)
    try:
        return scenario(scale), ""
    # Whatever breaks a scenario breaks its promise, and the others are still to be run.
    except (Exception, SystemExit) as error:
        return [], f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def entry(cases: list[Case], failure: str, seconds: float, scale: float) -> dict[str, Any]:
    """What the file says of a scenario."""
    return {
        "held": bool(cases) and not failure and all(case.held for case in cases),
        "failure": failure,
        "scale": scale,
        "seconds": round(seconds, 1),
        "load_average": os.getloadavg(),
        "cases": {case.name: case.as_json() for case in cases},
    }


def rows(name: str, found: dict[str, Any]) -> list[str]:
    """The lines of the table for a scenario, in Markdown, from what the file says of it."""
    lines = []
    for case, about in found["cases"].items():
        measured = " · ".join(
            ("{} {:,g} {}" if check["held"] else "**{} {:,g} {}**").format(what, check["measured"], check["bound"])
            for what, check in about["checks"].items()
        )
        lines.append(f"| {name} | {case} | {measured} | {_earlier(about)} | {_verdict(about['held'])} |")
    if found["failure"]:
        lines.append(f"| {name} | | {found['failure'].splitlines()[0]} | | {_verdict(False)} |")
    return lines


def _earlier(about: dict[str, Any]) -> str:
    """What an earlier version did in the same case, where that is known."""
    if not (before := about.get("before")):
        return ""
    silent_s = before["liveness"]["longest_silence_s"]
    return f"RSS MiB {before['resident_mib']['most']:,} · silent s {silent_s:g} · threads {before['threads']['most']}"


def _verdict(held: bool) -> str:
    return "held" if held else "**broken**"


def machine() -> dict[str, Any]:
    """What it was measured on."""
    models = (line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name"))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": next(models, "unknown").partition(": ")[2],
        "cores": os.cpu_count(),
        "memory_gib": round(pages / (1 << 30)),
        "python": sys.version.split()[0],
    }


def beside_before(results: dict[str, Any], before: Path = HERE / "results/attacks_before.json") -> None:
    """Puts what each attack did to an earlier version beside what it does now."""
    earlier = json.loads(before.read_text("utf-8")) if before.exists() else {}
    for name, case in results.get("attacks", {}).get("cases", {}).items():
        if name in ATTACKS and name in earlier:
            case["before"] = earlier[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything, as a share of the full size")
    parser.add_argument("--soak-s", type=float, default=120.0, help="length of the soak (default: 120)")
    parser.add_argument("--mixing-s", type=float, default=180.0, help="length of the mixed traffic (default: 180)")
    parser.add_argument("--watchlist", default="", help="of the overload, for another reader than the bundled one")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the file")
    parser.add_argument("--page", type=Path, help="page of docs into which the table of the whole file is written")
    parser.add_argument("--out", type=Path, default=HERE / "results/chaos.json")
    args = parser.parse_args()
    lengths = {"soak": args.soak_s, "mixing": args.mixing_s}
    results = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
    print(_HEAD)
    broken = False
    for name in args.only:
        scenario, within_s = SCENARIOS[name]
        if name in lengths:
            scenario = functools.partial(scenario, seconds=lengths[name])
        if name == "overload":
            scenario = functools.partial(scenario, watchlist=args.watchlist)
        began_s = time.monotonic()
        cases, failure = run(scenario, args.scale, within_s + lengths.get(name, 0))
        found = entry(cases, failure, time.monotonic() - began_s, args.scale)
        broken |= not found["held"]
        results[name] = with_total(found, results.get(name, {})) if name == "mixing" else found
        results["machine"] = machine() | {"note": args.note}
        beside_before(results)
        print("\n".join(rows(name, results[name])), flush=True)
        args.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if args.page:
        known = [name for name in SCENARIOS if name in results]
        lines = [line for name in known for line in rows(name, results[name])]
        write_between(args.page, "chaos.py", "\n".join([_HEAD, *lines]))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
