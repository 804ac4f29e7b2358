"""Makes records of lines that were written past the log: bounded in length, and in number a second."""

import fcntl
import logging
import os
import re
import select
import time
from collections.abc import Callable

log = logging.getLogger("native")

MAX_LINE_BYTES = 2048
"""Of a longer line only the beginning is kept."""
MAX_LINES_PER_S = 100
"""Further lines are counted and left out."""
_OF_ABSEIL = re.compile(rb"([IWEF])[0-9]{4} ")
"""How lines of abseil begin, which gRPC logs with: the level, month and day."""
_LEVELS = {b"I": logging.INFO, b"W": logging.WARNING, b"E": logging.ERROR, b"F": logging.CRITICAL}


class WrittenLines:
    """Reads two pipes, and logs each line.

    Args:
        native: The pipe that C writes to, of which the writing end does not block. A process that was started from this
            one may keep it open.
        python: The pipe that Python writes to. Its end is the end of both.
        clock: Tells the time in seconds.
    """

    def __init__(self, native: int, python: int, clock: Callable[[], float] = time.monotonic) -> None:
        os.set_blocking(native, False)
        self._native, self._python, self._clock = native, python, clock
        self._begun = {native: _Line(), python: _Line()}
        self._second = 0
        self._logged = 0
        """The number of lines that were logged in this second."""
        self._left_out = 0
        """The number of lines that were left out since a record said so."""

    def read(self) -> None:
        """Logs lines until the end, and closes the pipes."""
        ready = select.poll()
        for pipe in self._begun:
            ready.register(pipe, select.POLLIN)
        ended = False
        while not ended:
            found = ready.poll(1000 if self._left_out else None)
            if not found:
                self._say_left_out()
            for pipe, _ in found:
                if not self._read_some(pipe):
                    ready.unregister(pipe)
                    ended |= pipe == self._python
        while self._read_some(self._native):
            pass
        for pipe, line in self._begun.items():
            self._log(line)
            os.close(pipe)
        self._say_left_out()

    def _read_some(self, pipe: int) -> bool:
        """Logs what a pipe holds; whether there may be more."""
        size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        try:
            data = os.read(pipe, size)
        except BlockingIOError:
            return False
        *ends, begun = data.split(b"\n")
        line = self._begun[pipe]
        for end in ends:
            line.add(end)
            self._log(line)
        line.add(begun)
        # Short writes leave parts of pages empty: a pipe can be full from half its size on.
        if pipe == self._native and len(data) >= size // 2:
            log.warning("lines may be missing: they came faster than they were read")
        return bool(data)

    def _log(self, line: "_Line") -> None:
        """Logs a line that is complete, and begins the next one."""
        begun, cut_bytes = line.take()
        if not begun.strip():
            return
        if int(self._clock()) != self._second:
            self._say_left_out()
            self._second, self._logged = int(self._clock()), 0
        if self._logged == MAX_LINES_PER_S:
            self._left_out += 1
            return
        self._logged += 1
        level = _OF_ABSEIL.match(begun)
        extra = {"line": begun.rstrip(b"\r").decode(errors="backslashreplace")}
        log.log(
            _LEVELS[level[1]] if level else logging.WARNING,
            "written past the log",
            extra=extra | ({"cut_bytes": cut_bytes} if cut_bytes else {}),
        )

    def _say_left_out(self) -> None:
        if self._left_out:
            log.warning("lines were left out", extra={"lines": self._left_out})
            self._left_out = 0


class _Line:
    """A line that is not complete yet."""

    def __init__(self) -> None:
        self._begun = b""
        self._cut_bytes = 0

    def add(self, part: bytes) -> None:
        kept = part[: MAX_LINE_BYTES - len(self._begun)]
        self._begun += kept
        self._cut_bytes += len(part) - len(kept)

    def take(self) -> tuple[bytes, int]:
        """What is kept of the line and the number of bytes that are not; begins the next one."""
        taken = self._begun, self._cut_bytes
        self._begun, self._cut_bytes = b"", 0
        return taken
