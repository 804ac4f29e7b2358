"""What is expected of offline commands: those of the image that serves, and those that only the tools have."""

import json
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from engine import Engine
from serving import PAIR, await_that, expect

PAIRS = [{**PAIR, "label": 1}, {"prompt": "What is it?", "response": "It is gout.", "label": 0}] * 32
STOPPED_BY_SIGTERM = 128 + signal.SIGTERM


def write_data(folder: Path) -> None:
    """Writes the same pairs as JSONL and as Parquet, where a container may write beside them."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), "utf-8")
    pq.write_table(pa.Table.from_pylist(PAIRS), folder / "pairs.parquet")


def check_demo(engine: Engine, tag: str) -> None:
    """The tour runs from the image alone."""
    ended = engine.run(tag, "demo")
    expect("`scopewatch demo` runs", ended.returncode == 0, ended.stdout[-3000:])


def check_scans_lines(engine: Engine, tag: str, folder: Path) -> None:
    """The image that serves scans JSONL; of Parquet it says what it lacks."""
    options = _mounted(folder)
    ended = engine.run(tag, "scan", "/data/pairs.jsonl", "--out", "/data/lines.jsonl", "--overwrite", options=options)
    expect("`scopewatch scan pairs.jsonl` runs", ended.returncode == 0, ended.stdout[-3000:])
    ended = engine.run(tag, "scan", "/data/pairs.parquet", "--out", "/data/none.jsonl", options=options)
    expect(
        "`scopewatch scan pairs.parquet` says what is missing",
        ended.returncode and "need pyarrow" in ended.stdout and "Traceback" not in ended.stdout,
        ended.stdout[-3000:],
    )


def check_tools(engine: Engine, tag: str, folder: Path) -> None:
    """The tools do what the image that serves cannot."""
    options = _mounted(folder)
    ended = engine.run(tag, "scan", "/data/pairs.parquet", "--out", "/data/rows.jsonl", "--overwrite", options=options)
    expect("`scopewatch scan pairs.parquet` runs", ended.returncode == 0, ended.stdout[-3000:])
    lines, rows = ((folder / name).read_text("utf-8").splitlines() for name in ("lines.jsonl", "rows.jsonl"))
    expect("and finds the same scores", [_scores(row) for row in lines] == [_scores(row) for row in rows], rows[:1])
    ended = engine.run(tag, "evaluate", "/data/pairs.jsonl", "--indicator", "speculation", "--json", options=options)
    expect("`scopewatch evaluate` runs", ended.returncode == 0 and '"auroc"' in ended.stdout, ended.stdout[-3000:])
    ended = engine.run(
        tag, "-c", "import ray, gguf, sklearn, matplotlib, ruamel.yaml", options=("--entrypoint", "python")
    )
    expect("Ray and what calibration needs can be imported", ended.returncode == 0, ended.stdout[-3000:])
    _check_ends(engine, tag, folder)


def _check_ends(engine: Engine, tag: str, folder: Path) -> None:
    """A command that is the container's first process ends when it is told to."""
    arguments = ("evaluate", "/data/pairs.jsonl", "--indicator", "speculation")
    with engine.started(tag, *arguments, options=_mounted(folder)) as name:
        process = engine.podman("inspect", "--format", "{{.State.Pid}}", name).strip()
        await_that(lambda: _asks_for_sigterm(process), 60, lambda: engine.tried("logs", name).stdout)
        engine.podman("stop", "--time", "30", name)
        code = int(engine.podman("inspect", "--format", "{{.State.ExitCode}}", name))
    expect("an offline command ends on SIGTERM, before it is killed", code == STOPPED_BY_SIGTERM, code)


def _asks_for_sigterm(process: str) -> bool:
    """Whether a process of this machine has a handler for the signal; without one the kernel keeps it from process 1."""
    status = Path("/proc", process, "status").read_text("utf-8")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _mounted(folder: Path) -> tuple[str, ...]:
    return ("--volume", f"{folder}:/data")


def _scores(row: str) -> object:
    result = json.loads(row)
    return {name: value for name, value in result.items() if name not in {"file", "line", "id", "row"}}
