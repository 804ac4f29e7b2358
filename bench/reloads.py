"""Watchlists reloaded under load: does a call fail, or a reply mix versions? Prints one JSON object.

    python bench/reloads.py [--count 200] [--callers 16]

A real server reads the bundled reader's text for callers who ask again as soon as they are answered, and never retry,
while its watchlist file changes `count` times: by a link that is led elsewhere, by a file that takes the place of
another, and in place; asked for by nobody (the server looks), by SIGHUP, and by ReloadWatchlists, in turn. Every tenth
file is broken, in one of four ways, and must be refused with its name. Each version has a feature and a threshold of
its own, and every reply must have those of the version that it names.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import re
import signal
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from scopewatch.config import BUNDLED_WATCHLIST
from scopewatch.server_process import running_server
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

LOOK_S = 0.1
"""How often the server looks at its file."""
_WAIT_S = 120
_NO_RETRIES = [("grpc.enable_retries", 0)]
_LONG = "It may rain, or so it seems. " * 60


class File:
    """A watchlist file as Kubernetes mounts it: a link to a file in a folder that is itself a link.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folders = itertools.count()
        self.path = folder / "watchlist.yaml"
        self.path.symlink_to("..data/watchlist.yaml")
        self.swap(document(0))

    def write(self, number: int, text: str) -> None:
        """Changes the file in one of three ways."""
        (self.swap, self.replace, self.path.write_text)[number // 3 % 3](text)

    def swap(self, text: str) -> None:
        folder = self._folder / f"..{next(self._folders)}"
        folder.mkdir()
        (folder / "watchlist.yaml").write_text(text)
        link = self._folder / "..next"
        link.symlink_to(folder.name)
        link.replace(self._folder / "..data")

    def replace(self, text: str) -> None:
        part = self.path.resolve().with_suffix(".part")
        part.write_text(text)
        part.replace(self.path.resolve())


def document(number: int, *, feature: str = "", weight: str = "1.0", reader: str = "reader") -> str:
    """A watchlist whose threshold is its number, and one of whose features is of this number."""
    demo = BUNDLED_WATCHLIST.parent
    return f"""version: 1
name: live
reader: {{path: {demo / reader}}}
saes:
  res: {{path: {demo}/sae/layer_2/width_3k/average_l0_31/params.npz, hookpoint: layers.2.resid_post}}
indicators:
- name: mark
  threshold: {number}.0
  features:
  - {{feature: res/352}}
  - {{feature: {feature or f"res/{1000 + number}"}, weight: {weight}}}
- {{name: steady, threshold: 1.0, features: [{{feature: res/79, weight: 0.5}}, {{feature: res/352}}]}}
"""


def broken(number: int) -> str:
    """A file that no service may take: cut off, of a feature that is not there, another reader, or infinite scores."""
    kinds = (
        document(number)[:-40],
        document(number, feature="res/999999"),
        document(number, reader="sae"),
        document(number, weight="1.7e+308").replace("res/352}", "res/352, weight: 1.7e+308, pooling: sum}", 1),
    )
    return kinds[number // 10 % len(kinds)]


@dataclass(slots=True)
class Answers:
    """What callers were told."""

    calls: int = 0
    failed: list[str] = field(default_factory=list)
    said: set[tuple[int, str, float]] = field(default_factory=set)
    """Version, digest and threshold of replies."""
    mixed_batches: int = 0
    """Batches whose items are of several versions."""
    back: int = 0
    """Replies of an earlier version than the same caller had before."""
    seconds: list[float] = field(default_factory=list)


async def under_reloads(
    address: str, metrics_address: str, file: File, hang_up: Callable[[], None], count: int, callers: int
) -> dict[str, Any]:
    """Changes the file of a server so many times, while callers ask.

    Args:
        address: The server's address for gRPC.
        metrics_address: Its address for metrics.
        file: Its only watchlist.
        hang_up: Sends it SIGHUP.
        count: How many times the file changes.
        callers: How many callers ask at once.
    """
    answers, over = Answers(), asyncio.Event()
    async with grpc.aio.insecure_channel(address, options=_NO_RETRIES) as channel:
        stub = monitor_pb2_grpc.MonitorServiceStub(channel)
        asking = [asyncio.create_task(_ask(stub, number, answers, over)) for number in range(callers)]
        loaded = {1: (_digest(file), 0.0)}
        seconds: list[float] = []
        refused = named = 0
        for number in range(1, count + 1):
            began_s = time.monotonic()
            if number % 10:
                file.write(number, document(number))
                version = len(loaded) + 1
                loaded[version] = _digest(file), float(number)
                await _asked_for(number, stub, hang_up)
                await _until(lambda v=version: _version_is(stub, v), f"version {version} never ran")
                seconds.append(time.monotonic() - began_s)
            else:
                failed = await _failed(metrics_address)
                file.write(number, broken(number))
                refused += await _asked_for(number, stub, hang_up) is not None
                await _until(lambda f=failed: _has_failed(metrics_address, f), f"file {number} was not refused")
                told = await _asked_for(2, stub, hang_up)
                named += str(file.path) in (told or "")
        # Calls that are judged by the last version, too.
        await asyncio.sleep(0.2)
        over.set()
        await asyncio.gather(*asking)
    wanted = {(version, *about) for version, about in loaded.items()}
    latencies = statistics.quantiles(answers.seconds, n=100)
    return {
        "reloads": count,
        "broken": count // 10,
        "broken_named": named,
        "versions": len(loaded),
        "versions_that_judged": len(answers.said & wanted),
        "calls": answers.calls,
        "failed_calls": len(answers.failed),
        "failures": sorted(set(answers.failed))[:5],
        "mixed_replies": len(answers.said - wanted) + answers.mixed_batches,
        "replies_of_an_earlier_version": answers.back,
        "reload_s": {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)},
        "call_ms": {"p50": round(1000 * latencies[49], 1), "p99": round(1000 * latencies[98], 1)},
    }


async def _ask(stub: Any, number: int, answers: Answers, over: asyncio.Event) -> None:
    """One caller: new texts, texts that come again, long ones and batches."""
    last = 0
    for turn in itertools.count():
        if over.is_set():
            return
        own = f"It may be so, said {number}, {turn}."
        texts = [own, "It may be gout.", f"{own} {_LONG}", own + "!"]
        started_s = time.monotonic()
        answers.calls += 1
        try:
            if turn % 8 == 7:
                requests = [pb.ScoreRequest(response=text) for text in texts]
                batch = await stub.BatchScore(pb.BatchScoreRequest(requests=requests), timeout=_WAIT_S)
                answers.failed += [f"item: {one.status.message}" for one in batch.results if one.HasField("status")]
                replies = [one.response for one in batch.results if one.HasField("response")]
            else:
                text = texts[2 if turn % 8 == 6 else turn % 2]
                replies = [await stub.Score(pb.ScoreRequest(response=text), timeout=_WAIT_S)]
        except grpc.aio.AioRpcError as error:
            answers.failed.append(f"{error.code().name}: {error.details()}")
            continue
        answers.seconds.append(time.monotonic() - started_s)
        said = {_said(reply) for reply in replies}
        answers.said |= said
        answers.mixed_batches += len(said) > 1
        version = min((one[0] for one in said), default=last)
        answers.back += version < last
        last = max(last, version)


def _said(reply: pb.ScoreResponse) -> tuple[int, str, float]:
    made_by = reply.provenance
    return made_by.watchlists_version, made_by.watchlist_digest, reply.indicators[0].threshold


async def _asked_for(number: int, stub: Any, hang_up: Callable[[], None]) -> str | None:
    """Has the file read in one of three ways; what the server says if it is asked and refuses."""
    if number % 3 == 1:
        hang_up()
    if number % 3 == 2:
        try:
            await stub.ReloadWatchlists(pb.ReloadWatchlistsRequest(), timeout=_WAIT_S)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return None


async def _until(holds: Callable[[], Any], message: str) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not await holds():
        if time.monotonic() > deadline_s:
            raise SystemExit(message)
        await asyncio.sleep(0.01)


async def _version_is(stub: Any, version: int) -> bool:
    return bool((await stub.GetInfo(pb.GetInfoRequest())).watchlists_version == version)


async def _has_failed(metrics_address: str, before: float) -> bool:
    return await _failed(metrics_address) > before


async def _failed(metrics_address: str) -> float:
    """How many reloads have failed."""

    def page() -> str:
        with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=30) as reply:
            return str(reply.read().decode())

    found = re.search(
        r'^scopewatch_watchlist_reloads_total\{result="failed"\} (.+)$', await asyncio.to_thread(page), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def _digest(file: File) -> str:
    return hashlib.sha256(file.path.read_bytes()).hexdigest()


def reloads(count: int = 200, callers: int = 16) -> dict[str, Any]:
    """Starts a server and changes its watchlist under load.

    Args:
        count: How many times the file changes; a tenth of them are broken.
        callers: How many callers ask at once.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = File(Path(folder))
        settings = {"watchlist": file.path, "watch_files_s": LOOK_S, "device": "cpu", "max_tokens": 256}
        with running_server(settings) as server:

            def hang_up() -> None:
                server.process.send_signal(signal.SIGHUP)

            addresses = server.address, str(server.ready["metrics_address"])
            return asyncio.run(under_reloads(*addresses, file, hang_up, count, callers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--callers", type=int, default=16)
    args = parser.parse_args()
    print(json.dumps(reloads(args.count, args.callers), indent=2))


if __name__ == "__main__":
    main()
