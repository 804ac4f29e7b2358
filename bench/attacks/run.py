"""Attacks a server of this checkout with each attack in turn, prints a table and writes a JSON file.

cd bench && python -m attacks.run [--scale 0.1] [--only gzip_batch ...] [--out results/attacks.json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attacks import bodies, floods, slow
from attacks.watch import watch
from scopewatch.config import server_environment

Attack = Callable[[dict[str, str], float], dict[str, Any]]
_DEFAULTS: Mapping[str, object] = {}


def _on_grpc(attack: Callable[..., dict[str, Any]], **sizes: int) -> Attack:
    """An attack on the gRPC port, with its sizes scaled."""
    return lambda at, scale: attack(at["grpc_address"], **{name: int(size * scale) for name, size in sizes.items()})


ATTACKS: dict[str, Attack] = {
    "gzip_batch": _on_grpc(bodies.gzip_batch, repeats=bodies.FULL),
    "gzip_history": _on_grpc(bodies.gzip_history, repeats=bodies.FULL),
    "deflate_batch": _on_grpc(bodies.deflate_batch, repeats=bodies.FULL),
    "gzip_members": _on_grpc(bodies.gzip_members, repeats=bodies.FULL),
    "gzip_in_gzip": _on_grpc(bodies.gzip_in_gzip, repeats=bodies.FULL),
    "gzip_cut_short": _on_grpc(bodies.gzip_cut_short, repeats=bodies.FULL),
    "plain_batch": lambda at, scale: bodies.plain_batches(at["grpc_address"], 1, int(scale * (8 << 20))),
    "plain_batches": lambda at, scale: bodies.plain_batches(at["grpc_address"], 8, int(scale * (8 << 20))),
    "half_requests": lambda at, scale: slow.half_requests(at["metrics_address"], int(scale * 900)),
    "dribbled_calls": _on_grpc(slow.dribbled_calls, streams=100),
    "dribbled_checks": _on_grpc(slow.dribbled_checks, streams=100),
    "goaway_text": _on_grpc(floods.goaway_text),
    "many_connections": _on_grpc(floods.many_connections, connections=1000),
    "silent_connections": _on_grpc(floods.silent_connections, connections=1000),
    "many_streams": _on_grpc(floods.many_streams, streams=10_000),
    "header_flood": _on_grpc(floods.header_flood, calls=200),
    "rapid_reset": _on_grpc(floods.rapid_reset),
    "settings_flood": _on_grpc(floods.settings_flood),
    "ping_flood": _on_grpc(floods.ping_flood),
    "continuation_flood": _on_grpc(floods.continuation_flood),
}


@contextmanager
def logged_server(log: Path, settings: Mapping[str, object]) -> Iterator[tuple[int, dict[str, str]]]:
    """`scopewatch serve` on free ports with its output in a file; the process and the line that says it is ready."""
    fixed = {"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0", "log_format": "json"}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "scopewatch", "serve"]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=server_environment({**fixed, **settings}))
        try:
            yield process.pid, _ready(process, log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> dict[str, str]:
    while process.poll() is None:
        for line in log.read_text("utf-8").splitlines():
            if '"metrics_address"' in line and '"grpc_address"' in line:
                return dict(json.loads(line))
        time.sleep(0.1)
    sys.exit(f"the server did not start:\n{log.read_text('utf-8')}")


def attacked(attack: Attack, scale: float = 1.0, settings: Mapping[str, object] = _DEFAULTS) -> dict[str, Any]:
    """What an attack does to a new server that has these settings."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with logged_server(log, settings) as (pid, at):
            started_s = time.monotonic()
            with watch(pid, at["grpc_address"], settle_s=1.0) as seen:
                answered = attack(at, scale)
            seconds = round(time.monotonic() - started_s, 1)
        lines = log.read_bytes().splitlines()
    return {"seconds": seconds, **seen, **log_of(lines), "answered": answered}


def log_of(lines: list[bytes]) -> dict[str, int]:
    """How many lines of a log were forged, and how many are not of its format."""
    return {"forged_lines": lines.count(floods.FORGED), "lines_not_json": sum(not _is_json(line) for line in lines)}


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def row(name: str, result: dict[str, Any]) -> str:
    """A line of the table."""
    memory, threads, liveness = result["resident_mib"], result["threads"], result["liveness"]
    return (
        f"{name:20} {memory['rest']:>5} → {memory['most']:>5} {threads['rest']:>4} → {threads['most']:>4} "
        f"{liveness['longest_silence_s']:>8} {liveness['failed']:>3} of {liveness['checks']:>3} "
        f"{result['forged_lines']:>6}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="size of the attacks, as a share of the full size")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), metavar="ATTACK")
    parser.add_argument("--out", type=Path, help="JSON file; what it has of other attacks stays")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text("utf-8")) if arguments.out and arguments.out.exists() else {}
    print(f"{'attack':20} {'RSS MiB':>13} {'threads':>11} {'silent s':>8} {'failed':>9} {'forged':>6}")
    for name in arguments.only:
        result = attacked(ATTACKS[name], arguments.scale)
        results[name] = {"scale": arguments.scale, **result}
        print(row(name, result), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
