"""What a GPU shows, in one command of eight minutes: whether everything is right there, and how fast.

    python bench/gpu.py                                        # on a GPU
    python bench/gpu.py --only families,invariance             # some sections
    python bench/gpu.py --trace                                # on any CPU: launches and bytes of one pass, counted
    python bench/gpu.py --device cpu --tiny                    # a rehearsal of the script itself

Sections run in processes of their own, each within its time: one that fails or takes too long is told and left, and the
rest goes on; what would begin after `--minutes` is left out. Progress goes to standard output; results to `gpu.json`
and `gpu.md` in the folder `--out`. Exits with 0 if everything that is compared is right, whatever the speed; with 1 if
something is not, or a section that compares did not come to its end.

Nothing is needed beside scopewatch's own requirements; SAELens is measured where it is there. See docs/gpu.md.
"""

import argparse
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Or torch, asked whether there is a GPU, would make it unusable in the processes that are forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import torch
from transformers.utils.logging import disable_progress_bar

from contenders import scopewatch
from on_gpu.beside import beside
from on_gpu.contests import contests
from on_gpu.families import family_sections
from on_gpu.flips import flips
from on_gpu.goals import GOALS
from on_gpu.invariance import invariance
from on_gpu.kernels import kernels
from on_gpu.passes import engines, lone, passes, peak, shared
from on_gpu.report import Report
from on_gpu.sections import Outcome, Section, Told, run_sections
from on_gpu.served import served
from on_gpu.stage import FULL, TINY, Stage
from on_gpu.trace import trace
from run import set_thresholds

COMPARING = ("families", "invariance", "beside", "contests", "flips")
"""The sections that show whether something is right; a run without their ends has not shown it."""
_LIBRARIES = ("torch", "triton", "transformers", "sae-lens", "grpcio", "numpy")


def device(stage: Stage, told: Told) -> None:
    """Whether processes of this one can use the device."""
    torch.zeros(1, device=stage.device)
    told.figures(name=torch.cuda.get_device_name() if stage.device.type == "cuda" else platform.processor() or "cpu")


def prepare(stage: Stage, told: Told) -> None:
    """Writes the reader of random weights, and thresholds that about 5 % of the pairs pass."""
    subject, engine = stage.subject, stage.engine(prefix_cache_bytes=0, graph_tokens=0)
    told.say(f"the reader runs {engine.identity.reader.attention}")
    set_thresholds(subject, engine, scopewatch(subject, engine, engine.max_batch_tokens))


def untimed(tiny: bool) -> list[list[Section]]:
    """The lanes that run side by side: what they find does not depend on how long it takes."""
    return [
        *([section] for section in family_sections(tiny)),
        [Section("flips", 120, flips)],
        [Section("trace", 60, trace)],
    ]


def timed() -> list[list[Section]]:
    """The lanes of which each runs alone, the most wanted first."""
    return [
        [
            Section("peak", 30, peak),
            Section("engines", 120, engines),
            Section("passes", 60, passes),
            Section("lone", 20, lone),
            Section("invariance", 45, invariance),
            Section("shared", 30, shared),
            Section("kernels", 45, kernels),
        ],
        [Section("served", 120, served)],
        [Section("contests", 40, contests)],
        [Section("beside", 120, beside)],
    ]


def arguments() -> argparse.Namespace:
    cores = os.cpu_count() or 2
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="sizes that a CPU takes in seconds; no figure means anything"
    )
    parser.add_argument("--only", metavar="NAME,...", help="run these sections")
    parser.add_argument("--trace", action="store_true", help="the same as --device cpu --only trace")
    parser.add_argument("--leave", metavar="NAME,...", default="", help="run all but these sections")
    parser.add_argument("--minutes", type=float, default=8.0, help="what all sections may take together")
    parser.add_argument(
        "--at-once", type=int, default=max(1, min(8, cores // 2)), help="families that are compared side by side"
    )
    parser.add_argument("--labelled", type=Path, nargs="+", default=[], help="JSONL of labelled pairs, for `flips`")
    parser.add_argument("--threads", type=int, default=max(1, min(4, cores - 1)), help="of an engine")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"), help="random weights are kept here")
    parser.add_argument("--out", type=Path, help="default: bench/results on a GPU, the scratch folder on a CPU")
    args = parser.parse_args()
    if args.trace:
        args.device, args.only = "cpu", "trace"
    return args


def main() -> None:
    args = arguments()
    disable_progress_bar()
    began_s = time.monotonic()
    until_s = began_s + 60 * args.minutes
    stage = Stage(
        torch.device(args.device), TINY if args.tiny else FULL, args.scratch, args.threads, tuple(args.labelled)
    )
    together, alone = (chosen(lanes, args.only, args.leave) for lanes in (untimed(args.tiny), timed()))

    out = args.out or (Path(__file__).parent / "results" if args.device == "cuda" else args.scratch)
    outcomes: dict[str, Outcome] = {}

    def report() -> Report:
        goals = [goal.judged(outcomes) for goal in GOALS] if args.device == "cuda" and not args.tiny else []
        name = outcomes["device"].figures.get("name", args.device)
        return Report(machine(name), outcomes, goals, round(time.monotonic() - began_s, 1))

    def heard(name: str, text: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {name}: {text}", flush=True)
        if text.startswith(("done", "FAILED")):
            # So that a run that is ended from outside leaves what it has found.
            report().write(out)

    def run(some: list[list[Section]], at_once: int, start: str) -> None:
        run_sections(some, stage, at_once=at_once, until_s=until_s, heard=heard, start=start, outcomes=outcomes)

    start, first = "fork", [[Section("device", 30, device)]]
    run(first, 1, start)
    if "fork" in outcomes["device"].failure:
        # Some library has touched the device while it was imported.
        start = "spawn"
        run(first, 1, start)
    if outcomes["device"].failure:
        raise SystemExit(f"{args.device} cannot be used: {outcomes['device'].failure}")
    if any(section.name != "contests" for lane in alone for section in lane):
        together.insert(0, [Section("prepare", 150, prepare)])
    run(together, args.at_once, start)
    run(alone, 1, start)
    found = report()
    found.write(out)
    print(
        f"\n{found.as_markdown()}\n\n{found.seconds:.0f} s in all; {out / 'gpu.json'} and {out / 'gpu.md'} are written"
    )
    if wrong := [name for name, outcome in outcomes.items() if not right(name, outcome)]:
        raise SystemExit(f"not right, or not shown to be: {', '.join(wrong)}")


def chosen(lanes: list[list[Section]], only: str | None, leave: str) -> list[list[Section]]:
    """The lanes without the sections that are not asked for; `families` stands for all seven."""
    wanted, left = (set(filter(None, (names or "").split(","))) for names in (only, leave))
    known = {name for lane in (*untimed(tiny=False), *timed()) for section in lane for name in _names(section)}
    if unknown := (wanted | left) - known:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")

    def asked(section: Section) -> bool:
        return bool(not wanted or _names(section) & wanted) and not _names(section) & left

    return [kept for lane in lanes if (kept := [section for section in lane if asked(section)])]


def _names(section: Section) -> set[str]:
    """What a section is asked for by: its name, and that of the sections that it belongs to."""
    return {section.name, section.name.partition("/")[0]}


def right(name: str, outcome: Outcome) -> bool:
    """Whether what a section compares is right, and it came to its end if it compares anything."""
    return not outcome.broken and not (outcome.failure and name.partition("/")[0] in COMPARING)


def machine(device_name: str) -> dict[str, Any]:
    """Facts that the figures depend on."""
    return {
        "device": device_name,
        "made": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "scopewatch": version("scopewatch"),
    } | {name: installed for name in _LIBRARIES if (installed := _version(name))}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
