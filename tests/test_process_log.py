"""All that `scopewatch serve` writes is of one format: no text of others makes a line, breaks one or steers a terminal."""

import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import wait_until
from scopewatch.errors import EngineError
from scopewatch.logs.lines import JsonLines, TextLines
from scopewatch.logs.written_lines import MAX_LINE_BYTES, MAX_LINES_PER_S, WrittenLines
from servers import ServerProcess

FORGED = '{"time": "x", "level": "info", "logger": "scopewatch.verdicts", "event": "forged"}'
NASTY = ["\n", "\r", "\x1b[2J", "\0", "\x7f", "\x85", "\x9b31m", "\u2028", "\u2029", "\u202e", "\ud800", "\x0b", "\x1c"]


# One record, one line


def record(message: str, error: Exception | None = None, **values: object) -> logging.LogRecord:
    made = logging.LogRecord(
        "name", logging.WARNING, "", 0, message, (), error and (type(error), error, error.__traceback__)
    )
    vars(made).update(values)
    return made


texts = st.text(max_size=12) | st.lists(st.sampled_from([*NASTY, FORGED, " ", "=", '"', "\\", "a"]), max_size=5).map(
    "".join
)


@given(texts, texts, texts)
def test_a_json_record_is_one_line_of_printable_ascii(message: str, value: str, name: str) -> None:
    """Whatever it holds: and whoever parses it gets every value back."""
    line = JsonLines().format(record(message, OSError(value), request_id=value, labels={name: value}, several=[value]))

    assert re.fullmatch("[ -~]+", line)
    parsed = json.loads(line)
    assert (message, value, {name: value}, [value]) == (
        parsed["event"],
        parsed["request_id"],
        parsed["labels"],
        parsed["several"],
    )
    assert parsed["traceback"] == f"OSError: {value}"


def test_a_traceback_says_where_and_not_over_what() -> None:
    """The types of an exception and of what it came from are there, and the lines; not messages, which may quote a text."""
    text = "the patient's name"
    try:
        try:
            int(text)
        except ValueError as error:
            raise KeyError(text) from error
    except KeyError as error:
        lines = [formatter.format(record("failed", error)) for formatter in (JsonLines(), TextLines())]
    kept = JsonLines().format(record("failed", EngineError("the reader failed")))

    for line in lines:
        assert [
            part for part in ("ValueError", "int(text)", "KeyError", "raise KeyError(text)") if part not in line
        ] == []
        assert "patient" not in line
    assert "scopewatch.errors.EngineError: the reader failed" in kept


@given(texts, texts, texts)
def test_a_text_record_is_one_line_and_its_traceback_indented_ones(message: str, value: str, name: str) -> None:
    """Every line is printable ASCII; those behind the record begin with spaces, which no record does."""
    first, *more = (
        TextLines().format(record(message, ValueError(value), request_id=value, labels={name: value})).split("\n")
    )

    assert re.fullmatch("warning [ -~]*", first)
    assert more
    assert [] == [line for line in more if not re.fullmatch("    [ -~]*", line)]


@given(texts, texts)
def test_no_value_of_a_text_record_looks_like_two(message: str, value: str) -> None:
    """A value with spaces, quotes or an equals sign is in quotes, so that names are where the program put them."""
    line = TextLines().format(record(message, request_id=value, labels={value: [value]}, caller="me"))
    quoted = r'"(?:[^"\\]|\\.)*"'

    bare = re.sub(quoted, "", line)
    assert ["request_id", "labels", "caller"] == re.findall(r" (\w+)=", bare)
    shown = re.search(rf" request_id=({quoted}|\S+) labels=", line)
    assert shown is not None
    assert value == (json.loads(shown[1]) if shown[1].startswith('"') else shown[1])


@pytest.mark.parametrize("nasty", NASTY)
def test_what_can_break_a_line_is_escaped(nasty: str) -> None:
    """Each of these characters shows as its number, in either format."""
    for formatter in (JsonLines(), TextLines()):
        line = formatter.format(record("m", request_id=f"a{nasty}b"))
        assert f'"a{json.dumps(nasty)[1:-1]}b"' in line


# What is written past the log


def test_the_debug_text_of_a_peer_is_no_line_of_the_log(bundled: ServerProcess) -> None:
    """HTTP/2 lets a peer say why it leaves, and gRPC's core writes that down: it is inside a record, escaped."""

    def frame(kind: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, 0) + payload

    host, _, port = bundled.grpc_address.rpartition(":")
    said = f"too bad\n{FORGED}\nmore \x1b[31m".encode()
    with socket.create_connection((host, int(port))) as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b"") + frame(7, struct.pack(">II", 0, 11) + said))
        wait_until(lambda: any("u001b[31m" in line for line in bundled.log), "the core wrote nothing")

    records = [json.loads(line) for line in bundled.log]
    assert [] == [found for found in records if found["event"] == "forged"]
    written = [found for found in records if found["logger"] == "native"]
    assert FORGED in [found["line"] for found in written]
    assert {"info"} == {found["level"] for found in written if "Got goaway" in found["line"]}
    assert [] == [line for line in bundled.log if "\x1b" in line]


def run(body: str, *, fmt: str = "json", shell: str = "", timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    """Runs lines of Python inside `sole_output`, as the command line would."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    script = (
        "import ctypes, logging, os, subprocess, sys, warnings\n"
        "from scopewatch.logs.sole_output import sole_output\n"
        f"with sole_output('info', '{fmt}'):\n{indented}"
        "print('restored', file=sys.stderr)\nos.write(1, b'out again')\n"
    )
    command = [sys.executable, "-c", script]
    if shell:
        command = ["sh", "-c", f'exec "$0" "$@" {shell}', *command]
    # It would have C's own streams hold nothing back.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False)


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was written past the log while it ran, as the records say."""
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1:]) == (0, "out again", ["restored"]), done.stderr
    records = [json.loads(line) for line in done.stderr.splitlines()[:-1]]
    return [found["line"] for found in records if found["logger"] == "native" and "line" in found]


@pytest.mark.parametrize(
    "write",
    [
        "print('it is here')",
        "print('it is here', file=sys.stderr)",
        "print('it is here', file=sys.__stderr__, flush=True)",
        r"os.write(1, b'it is here\n')",
        r"os.write(2, b'it is here\n')",
        "os.write(2, b'it is here')",
        r"ctypes.CDLL(None).printf(b'it is here\n')",
        "subprocess.run(['echo', 'it is here'])",
        "subprocess.run('echo it is here >&2', shell=True)",
    ],
)
def test_whatever_is_written_is_a_record(write: str) -> None:
    """By Python, by C, even without flushing, by a child, to either descriptor, and without a newline at the end."""
    assert ["it is here"] == lines_of(run(write))


def test_python_s_own_complaints_are_records() -> None:
    """Warnings and errors that nobody caught, in destructors and threads, are no lines of their own."""
    done = run(
        "import threading\n"
        "class Bad:\n"
        "    def __del__(self): raise ValueError('in del')\n"
        "Bad()\n"
        "warnings.warn('be warned')\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start()\n"
        "thread.join()"
    )
    told = "\n".join(lines_of(done))
    assert all(part in told for part in ("Exception ignored in", "UserWarning: be warned", "ZeroDivisionError"))


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_both_formats_hold_what_was_written(fmt: str) -> None:
    """A line that imitates a record is a value in quotes, in either format, and bytes that are no text are escaped."""
    done = run(r"os.write(2, b'info    serving \x1b\xff\r\n')", fmt=fmt)
    first, last = done.stderr.splitlines()
    assert "restored" == last
    assert r'"info    serving \u001b\\xff"' in first
    assert first.startswith("warning written past the log line=" if fmt == "text" else '{"time": ')


def test_levels_are_those_of_abseil() -> None:
    """The level that gRPC's core gives a line is the record's; other lines are warnings, whatever they say."""
    body = "".join(
        rf"os.write(2, b'{word} m\n');" for word in ("I0101", "W0101", "E0101", "F0101", "I", "INFO:", "D0101")
    )
    levels = [json.loads(line)["level"] for line in run(body).stderr.splitlines()[:-1]]
    assert ["info", "warning", "error", "critical", "warning", "warning", "warning"] == levels


def test_a_setup_error_is_for_the_terminal(tmp_path: Path) -> None:
    """What the operator did wrong is the one line that is no record, and ends the process with 2."""
    command = [sys.executable, "-m", "scopewatch", "serve", "--watchlist", tmp_path / "gone.yaml"]
    command += ["--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wrong = f"scopewatch: {tmp_path}/gone.yaml: cannot be read: No such file or directory\n"
    assert (2, "", wrong) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_an_unexpected_error_is_one_record(fmt: str) -> None:
    """It ends the process with 1, and its message, which may hold anything, is inside the record."""
    done = run("raise RuntimeError('a\\ninfo    forged\\u2028')", fmt=fmt)
    assert done.returncode == 1
    assert "a\\ninfo    forged" in done.stderr or "    info    forged" in done.stderr
    assert [] == [line for line in done.stderr.split("\n") if line.startswith(("info", "Traceback", "\u2028"))]
    assert "\u2028" not in done.stderr


@pytest.mark.parametrize(("crash", "number"), [("os.abort()", signal.SIGABRT), ("ctypes.string_at(0)", signal.SIGSEGV)])
def test_a_crash_is_told_past_the_log(crash: str, number: int) -> None:
    """When the process is killed by itself, where it was still reaches standard error."""
    done = run(crash)
    assert -number == done.returncode
    assert "Fatal Python error" in done.stderr
    assert "most recent call first" in done.stderr


def test_c_code_that_holds_the_gil_never_waits_for_the_log() -> None:
    """More than a pipe holds, written while no other thread of Python can run, is cut and said to be, and goes on."""
    done = run("ctypes.PyDLL(None).write(2, b'x' * (8 << 20), 8 << 20)")
    records = [json.loads(line) for line in done.stderr.splitlines()[:-1]]
    assert {"written past the log", "lines were left out"} == {found["event"] for found in records}
    assert [True] == [found["uncounted"] for found in records if "uncounted" in found]


def test_python_loses_nothing_however_much_it_writes() -> None:
    """What Python's streams take waits for the log instead."""
    done = run(f"for number in range({MAX_LINES_PER_S - 1}): print(str(number) * 100_000)\nprint('last')")
    assert "last" == lines_of(done)[-1]
    assert MAX_LINES_PER_S >= len(lines_of(done)) > MAX_LINES_PER_S / 2


def test_a_child_that_stays_does_not_hold_the_process_up() -> None:
    """A process that was started from here and goes on keeps its descriptors, and we leave all the same."""
    done = run("child = subprocess.Popen(['sleep', '200']); print(child.pid)")
    (pid,) = lines_of(done)
    os.kill(int(pid), signal.SIGKILL)


def test_a_forked_process_that_stays_does_not_hold_the_process_up(tmp_path: Path) -> None:
    """It has the pipes themselves, whose end is then never seen; the lines up to there are in the log."""
    script = (
        "import os, time\nfrom scopewatch.logs.sole_output import sole_output\n"
        "with sole_output('info', 'json'):\n"
        "    child = os.fork()\n    time.sleep(0 if child else 200)\n    os.write(2, b'%d\\n' % child)\n"
    )
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], stderr=log, timeout=100, check=False)
    (told,) = map(json.loads, (tmp_path / "log").read_text(encoding="utf-8").splitlines())
    os.kill(int(told["line"]), signal.SIGKILL)
    assert 0 == done.returncode


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_it_runs_where_there_is_no_standard_error(closed: str) -> None:
    """A process that was started without descriptors works, and nothing else gets their numbers."""
    done = run("print('x'); connection = os.pipe(); assert min(connection) > 2", shell=closed)
    assert (0, "") == (done.returncode, done.stderr)


def test_a_reader_of_the_log_that_left_ends_nothing() -> None:
    """Records that cannot be written are gone, and the service goes on to its end."""
    reading, writing = os.pipe()
    os.close(reading)
    script = (
        "import logging, os\nfrom scopewatch.logs.sole_output import sole_output\n"
        "with sole_output('info', 'json'):\n    for _ in range(50): logging.warning('x'); os.write(2, b'y\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stderr=writing, timeout=100, check=False)
    os.close(writing)
    assert 0 == done.returncode


# Bounds


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


class Reading:
    """A real pair of pipes, and the thread that makes records of them."""

    def __init__(self) -> None:
        (native, self.native), (python, self.python) = os.pipe(), os.pipe()
        self.clock = Clock()
        self._thread = threading.Thread(target=WrittenLines(native, python, self.clock).read, daemon=True)
        self._thread.start()

    def end(self) -> None:
        os.close(self.native)
        os.close(self.python)
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def reading() -> Reading:
    return Reading()


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    return [(found.message, getattr(found, "line", getattr(found, "lines", None))) for found in caplog.records]


def test_lines_of_a_second_are_bounded_and_the_rest_counted(reading: Reading, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound lines are left out; how many is said soon, though nothing more comes, and at the end."""
    os.write(reading.native, b"n\n" * MAX_LINES_PER_S + b"too many\n" * 7)
    wait_until(lambda: ("lines were left out", 7) in told(caplog), "the number of lines is not said")
    os.write(reading.python, b"still too many\n")
    wait_until(lambda: ("lines were left out", 1) in told(caplog), "the number of lines is not said")
    reading.clock.now_s += 1
    os.write(reading.python, b"next\n" * MAX_LINES_PER_S + b"too many\n" * 2)
    reading.end()

    lines = [("written past the log", line) for line in ("n", "next") for _ in range(MAX_LINES_PER_S)]
    left_out = [("lines were left out", number) for number in (7, 1)]
    assert [*lines[:MAX_LINES_PER_S], *left_out, *lines[MAX_LINES_PER_S:], ("lines were left out", 2)] == told(caplog)


def test_a_line_is_bounded(reading: Reading, caplog: pytest.LogCaptureFixture) -> None:
    """Of a long line the beginning is logged, with the number of bytes that are not, however it was written."""
    for _ in range(3):
        os.write(reading.native, b"x" * MAX_LINE_BYTES)
    os.write(reading.native, b"\n" + b"y" * MAX_LINE_BYTES + b"\nshort\n\n  \r\n")
    reading.end()

    found = [(record.line, getattr(record, "cut_bytes", 0)) for record in caplog.records]
    assert [("x" * MAX_LINE_BYTES, 2 * MAX_LINE_BYTES), ("y" * MAX_LINE_BYTES, 0), ("short", 0)] == found
