"""Whatever the process writes is a record of its log, also what libraries write past it, to file descriptors 1 and 2.

gRPC's core writes there what peers send it, for instance: with line breaks and all, it would be lines of our log.
"""

import ctypes
import faulthandler
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from scopewatch.errors import ScopewatchError
from scopewatch.logs import configure
from scopewatch.logs.written_lines import WrittenLines

log = logging.getLogger(__name__)

_PIPE_BYTES = 1 << 20
_LAST_LINES_S = 2.0


@contextmanager
def sole_output(level: str, fmt: str) -> Iterator[None]:
    """While the block runs, standard error gets records of the log and nothing else, and standard output nothing.

    Each line that is written to either becomes a record of the logger `native`. Only `faulthandler` writes past the
    log, when the process crashes. An error that nobody expected is logged too, and ends the process with exit code 1.

    Args:
        level: The least severe level that is logged.
        fmt: `json` or `text`.

    Raises:
        SystemExit: The block raised something else than a ScopewatchError.
    """
    _open_standard_descriptors()
    real = [os.dup(1), os.dup(2)]
    stream = os.fdopen(real[1], "w", buffering=1, encoding="utf-8")
    configure(level, fmt, stream)
    faulthandler.enable(stream)
    try:
        with _read_by_the_log(real):
            yield
    except ScopewatchError:
        raise
    except Exception as error:
        # It comes of no call, so what it says is no caller's.
        log.critical("unexpected failure", extra={"problem": str(error)}, exc_info=True)
        raise SystemExit(1) from None
    finally:
        configure(level, fmt)
        faulthandler.enable(2)
        os.close(real[0])
        # Whoever read the log may have left.
        with suppress(OSError):
            stream.close()


@contextmanager
def _read_by_the_log(real: list[int]) -> Iterator[None]:
    """Puts pipes in the place of descriptors 1 and 2 and of Python's streams; after the block, what was there before.

    Args:
        real: Duplicates of descriptors 1 and 2.
    """
    native, python = _pipe(), _pipe()
    # C code may write while it holds the GIL, and the thread that reads needs it: a full pipe must not stop it.
    os.set_blocking(native[1], False)
    lines = WrittenLines(native[0], python[0])
    reading = threading.Thread(target=lines.read, name="native-log", daemon=True)
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = os.fdopen(python[1], "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    for number in (1, 2):
        os.dup2(native[1], number)
    os.close(native[1])
    reading.start()
    try:
        yield
    finally:
        stream, (sys.stdout, sys.stderr) = sys.stderr, before
        # What C's own streams hold back is written while it is still read.
        ctypes.CDLL(None).fflush(None)
        for number, descriptor in zip((1, 2), real, strict=True):
            os.dup2(descriptor, number)
        # The end of this pipe tells the thread that all is written; whoever was forked from here may keep it open.
        stream.close()
        reading.join(_LAST_LINES_S)


def _open_standard_descriptors() -> None:
    """Gives the process a standard input, output and error where it was started without, or a socket could be one."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)


def _pipe() -> tuple[int, int]:
    """A pipe that takes as much as the system lets it; its ends to read and to write."""
    ends = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return ends
