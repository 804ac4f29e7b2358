"""What a server looks like from outside while something happens to it.

    with watch(pid, grpc_address) as seen:
        ...
    print(seen["liveness"]["longest_silence_s"])

The observer is a process of its own (`python watch.py PID ADDRESS`), so that an attack that keeps this one busy
does not make the server look slow.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

_EVERY_S = 0.1
_DEADLINE_S = 1.0
_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
"""HealthCheckResponse with status SERVING."""


@contextmanager
def watch(pid: int, grpc_address: str, settle_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """Watches a server while the block runs.

    Args:
        pid: Process of the server, on this machine.
        grpc_address: Host and port that answer `grpc.health.v1` without credentials.
        settle_s: Time to go on watching after the block has ended.

    Yields:
        A dictionary that is empty until the block has ended. Then it has `alive`; `resident_mib`, `threads` and
        `descriptors`, each with `rest` (before), `most` and `last`; and `liveness`, checks of service "" every 100 ms
        with a deadline of 1 s: `checks`, `failed`, `slowest_s` and `longest_silence_s`, the longest time without a good
        answer.
    """
    seen: dict[str, Any] = {}
    command = [sys.executable, __file__, str(pid), grpc_address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as observer:
        assert observer.stdin
        assert observer.stdout
        observer.stdout.readline()
        try:
            yield seen
            time.sleep(settle_s)
        finally:
            observer.stdin.close()
            seen |= json.loads(observer.stdout.read())


class Process:
    """Samples of a process, from /proc."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        # The kernel then counts the peak of the resident size from now on, so that none between two samples is lost.
        (self._folder / "clear_refs").write_text("5")
        self.rest = self.most = self.last = self._sample()

    def take(self) -> bool:
        """Takes one sample; whether there still is a process to take it of."""
        try:
            self.last = self._sample()
        except (OSError, KeyError):
            return False
        self.most = {name: max(value, self.most[name]) for name, value in self.last.items()}
        return True

    def _sample(self) -> dict[str, int]:
        lines = (line.split() for line in (self._folder / "status").read_text("utf-8").splitlines())
        status = {words[0]: words[1] for words in lines if len(words) > 1}
        return {
            "resident_mib": int(status["VmRSS:"]) >> 10,
            "peak_mib": int(status["VmHWM:"]) >> 10,
            "threads": int(status["Threads:"]),
            "descriptors": sum(1 for _ in (self._folder / "fd").iterdir()),
        }

    def maxima(self) -> dict[str, dict[str, int]]:
        """At rest, at most and last, of each thing that was sampled."""
        most = {**self.most, "resident_mib": self.most["peak_mib"]}
        names = ("resident_mib", "threads", "descriptors")
        return {name: {"rest": self.rest[name], "most": most[name], "last": self.last[name]} for name in names}


class Liveness:
    """Health checks, one after another on one connection."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)])
        self._check = self._channel.unary_unary(_CHECK)
        self.checks = self.failed = 0
        self.slowest_s = self.longest_silence_s = 0.0
        self._good_at_s = time.monotonic()
        self.ask()

    def ask(self) -> None:
        """Asks once."""
        started_s, good = time.monotonic(), False
        with suppress(grpc.RpcError):
            good = self._check(b"", timeout=_DEADLINE_S, wait_for_ready=True) == _SERVING
        now_s = time.monotonic()
        self.checks += 1
        self.failed += not good
        self.slowest_s = max(self.slowest_s, now_s - started_s)
        self.longest_silence_s = max(self.longest_silence_s, now_s - self._good_at_s)
        if good:
            self._good_at_s = now_s

    def ask_until(self, over: threading.Event) -> None:
        """Asks every 100 ms, or as soon as the check before has its answer."""
        while not over.wait(_EVERY_S):
            self.ask()
        self.ask()

    def maxima(self) -> dict[str, float]:
        """What was counted."""
        return {
            "checks": self.checks,
            "failed": self.failed,
            "slowest_s": round(self.slowest_s, 3),
            "longest_silence_s": round(self.longest_silence_s, 3),
        }


def main(pid: int, address: str) -> None:
    """Watches until standard input is closed, and prints what was seen."""
    process, liveness, over = Process(pid), Liveness(address), threading.Event()
    asking = threading.Thread(target=liveness.ask_until, args=(over,))
    ending = threading.Thread(target=lambda: (sys.stdin.read(), over.set()))
    asking.start()
    ending.start()
    print("watching", flush=True)
    while not over.wait(_EVERY_S):
        process.take()
    asking.join()
    print(json.dumps({"alive": process.take(), **process.maxima(), "liveness": liveness.maxima()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
