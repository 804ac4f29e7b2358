"""Sections, each within a time of its own, in processes that can be given up: what fails or hangs takes no other along.

Processes are forked from one that has imported everything and has not touched the device: importing takes longer than
many a section, and a fault of the device ends the process that it happens in.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

_GRACE_S = 10.0
"""Time in which a process that is ended may stop a server that it has started."""


@dataclass(slots=True)
class Outcome:
    """What came of a section."""

    figures: dict[str, Any] = field(default_factory=dict)
    """What it measured, by name."""
    broken: list[str] = field(default_factory=list)
    """What is not right, each a sentence."""
    failure: str = ""
    """Why it did not come to its end; empty where it did."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """How a section tells what it finds, piece by piece, so that what is found before a failure is not lost."""

    pipe: Connection

    def say(self, text: str) -> None:
        """Shows a line of progress."""
        self.pipe.send(("say", text))

    def figures(self, **found: Any) -> None:
        """Keeps figures, under these names."""
        self.pipe.send(("figures", found))

    def broken(self, rules: Sequence[str]) -> None:
        """Keeps what is not right."""
        self.pipe.send(("broken", list(rules)))


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the run.

    Args:
        name: Its name, for `--only`, progress and results.
        within_s: The seconds that it may take.
        run: Measures; it is given the stage.
    """

    name: str
    within_s: float
    run: Callable[[Any, Told], None]


Heard = Callable[[str, str], None]
"""Is told a section's name and a line of progress."""


def run_sections(
    lanes: Sequence[Sequence[Section]],
    stage: object,
    *,
    at_once: int,
    until_s: float,
    heard: Heard,
    start: str = "fork",
    outcomes: dict[str, Outcome] | None = None,
) -> dict[str, Outcome]:
    """Runs lanes of sections; each lane is one process, that loads what its sections share once.

    Args:
        lanes: The sections of each lane, in order. After a section that fails, the lane goes on in a new process.
        stage: What the sections stand on; each process has its own copy.
        at_once: The number of lanes that run side by side.
        until_s: When all must have ended, on the monotonic clock; what has not begun by then is left out.
        heard: Is told what happens.
        start: How processes are started, as `multiprocessing` calls it: `spawn` imports everything in each.
        outcomes: Where outcomes are kept, so that whoever is told what happens sees those so far.

    Returns:
        What came of each section, by name.
    """
    outcomes = {} if outcomes is None else outcomes
    outcomes |= {section.name: Outcome(failure="not begun") for lane in lanes for section in lane}
    waiting, running = deque(deque(lane) for lane in lanes), list[_Lane]()
    try:
        while running or (waiting and time.monotonic() < until_s):
            while waiting and len(running) < at_once and time.monotonic() < until_s:
                running.append(_Lane(waiting.popleft(), stage, start, outcomes=outcomes, until_s=until_s, heard=heard))
            soonest_s = min(lane.due_s for lane in running)
            for pipe in wait([lane.pipe for lane in running], max(0.0, soonest_s - time.monotonic())):
                next(lane for lane in running if lane.pipe is pipe).hear()
            for lane in [lane for lane in running if lane.is_over()]:
                running.remove(lane)
                if lane.left:
                    waiting.appendleft(lane.left)
    finally:
        for lane in running:
            lane.end(0)
    return outcomes


class _Lane:
    """A process that runs sections one after another, and what is heard of it."""

    def __init__(
        self,
        sections: deque[Section],
        stage: object,
        start: str,
        *,
        outcomes: dict[str, Outcome],
        until_s: float,
        heard: Heard,
    ) -> None:
        self.left, self._outcomes, self._until_s, self._heard = sections, outcomes, until_s, heard
        self._over = False
        context: Any = multiprocessing.get_context(start)
        self.pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(list(sections), stage, theirs))
        self._process.start()
        theirs.close()
        self._begin()

    def hear(self) -> None:
        """Takes in one message."""
        section, outcome = self.left[0], self._outcomes[self.left[0].name]
        try:
            kind, what = self.pipe.recv()
        except EOFError:
            self._process.join(_GRACE_S)
            self._give_up(f"its process ended with exit code {self._process.exitcode}")
            return
        match kind:
            case "say":
                self._heard(section.name, what)
            case "figures":
                outcome.figures |= what
            case "broken":
                outcome.broken += what
                for rule in what:
                    self._heard(section.name, f"NOT RIGHT: {rule}")
            case "failed":
                self._give_up(what)
            case "done":
                outcome.failure, outcome.seconds = "", self._seconds()
                self._heard(section.name, f"done in {outcome.seconds} s")
                self.left.popleft()
                if self.left:
                    self._begin()
                else:
                    self._over = True
                    self.end(_GRACE_S)

    def is_over(self) -> bool:
        """Whether the process is through, or is given up now because its section has had its time."""
        if not self._over and time.monotonic() >= self.due_s:
            self._give_up(f"given up after {self._seconds():.0f} s")
        return self._over

    def end(self, patience_s: float) -> None:
        """Ends the process, once it has had so long to end itself, and all that it started."""
        self._process.join(patience_s)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_GRACE_S)
        # What hangs, or outlives it, is of its group.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join()
        self.pipe.close()

    def _begin(self) -> None:
        section = self.left[0]
        self._began_s = time.monotonic()
        self.due_s = min(self._began_s + section.within_s, self._until_s)
        self._outcomes[section.name].failure = "not ended"
        self._heard(section.name, "begins")

    def _give_up(self, why: str) -> None:
        """Ends the process over a section that failed; the sections behind it are left for another."""
        section = self.left.popleft()
        outcome = self._outcomes[section.name]
        outcome.failure, outcome.seconds = why, self._seconds()
        self._heard(section.name, f"FAILED: {why}")
        self._over = True
        self.end(0)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began_s, 1)


def _work(sections: Sequence[Section], stage: object, pipe: Connection) -> None:
    """The process of a lane."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _leave)
    told = Told(pipe)
    for section in sections:
        try:
            section.run(stage, told)
        # Whatever breaks a section is told, and the others are still to be run, in a process that is not broken.
        except Exception as error:
            traceback.print_exc(limit=6)
            pipe.send(("failed", f"{type(error).__name__}: {str(error).strip()[:500]}"))
            return
        pipe.send(("done", None))


def _leave(*_: object) -> None:
    """Ends the process by an exception, so that whoever started a server in it stops that."""
    raise SystemExit(1)
