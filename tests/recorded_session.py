"""A fixed session with the program as its users meet it, played against what is installed, and told as one JSON document.

The session starts `scopewatch serve`, calls it over gRPC with the generated stubs, reads its metrics page, stops it, and
runs the other commands with good arguments and with typical mistakes. It knows of no module of scopewatch but the
package itself and the generated stubs, so that it can compare the program before and after its inside was rebuilt.

`tests/data/recorded_session.json` is what the session told when it was recorded; `tests/test_recorded_session.py` plays
it again and compares. To record it anew:

    python tests/recorded_session.py > tests/data/recorded_session.json

That is right only after a change that users are meant to see (a flag, a message, a field, a metric, a number), in the
same commit, and after the difference in the record was read line by line. It is wrong after a change of the inside: there
the record stays, and what differs is a mistake.

What no two runs have in common is replaced, by `<date>`, `<port>`, `<uuid>` and the like, or left out: times, versions of
libraries, folders, and how requests happened to be put into batches.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import scopewatch
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

Document = Any
"""What JSON can hold."""

SECTIONS = ("help", "calls", "metrics", "server", "scoring", "offline", "calibration", "watchlists", "mistakes")
"""Parts of the record; each is compared by a test of its own."""

_COMMAND_S = 300
_START_S = 240
_PACKAGE = Path(scopewatch.__file__).resolve().parent


def play(folder: Path) -> dict[str, Document]:
    """Plays the whole session and tells what happened.

    Args:
        folder: An empty folder for everything that the session writes.
    """
    stage = _Stage(folder)
    record: dict[str, dict[str, Document]] = {section: {} for section in SECTIONS}
    jobs: list[Callable[[_Stage, dict[str, dict[str, Document]]], None]] = [
        _work_offline,
        _calibrate,
        _make_mistakes,
        _serve_and_call,
        _replay_and_scan,
        _ask_for_help,
    ]
    # Two commands at a time, since most of a command is the import of torch on one core.
    with ThreadPoolExecutor(2) as workers:
        running: list[Future[None]] = [workers.submit(job, stage, record) for job in jobs]
    for job in running:
        job.result()
    return record


def as_json(record: Mapping[str, Document]) -> str:
    """The record as it is kept: sorted and indented, so that a difference can be read."""
    return json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


# The files that the session works with.


class _Stage:
    """A folder with the bundled reader and SAE, watchlists and pairs, and an environment in which commands run.

    Args:
        folder: Where all that lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        # The package may move its files; a reader with a watchlist beside it is what it comes with.
        self.bundle = next(
            file.parent for file in sorted(_PACKAGE.rglob("watchlist.yaml")) if (file.parent / "reader").is_dir()
        )
        for name in ("reader", "sae"):
            (self.folder / name).symlink_to(self.bundle / name)
        weights = next((self.bundle / "sae").rglob("params.npz"))
        self.sae = str(weights.relative_to(self.bundle))
        for name in ("home", "empty"):
            (self.folder / name).mkdir()
        _write_files(self)
        self._environment = self._clean_environment()

    def _clean_environment(self) -> dict[str, str]:
        """The caller's environment without anything that changes what the program says."""
        unwanted = ("SCOPEWATCH_", "HF_", "LC_", "LANG", "TZ", "XDG_", "MPL", "PYTHONWARNINGS", "FORCE_COLOR", "GRPC_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        # Two commands run at a time, and threads that wait for each other cost more than they do.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return (
            threads
            | kept
            | {
                # The program that runs is the one that was imported here, whatever is installed beside it.
                "PYTHONPATH": os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH")))),
                # Some commands start servers that hear of no SCOPEWATCH_ variable.
                "CUDA_VISIBLE_DEVICES": "",
                "HOME": str(self.folder / "home"),
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
                "COLUMNS": "200",
                "NO_COLOR": "1",
                "PYTHONUTF8": "1",
                "HF_HUB_OFFLINE": "1",
                "SCOPEWATCH_DEVICE": "cpu",
            }
        )

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Starts the program in the folder; its output is read by the caller."""
        return subprocess.Popen(
            [sys.executable, "-m", "scopewatch", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.folder,
            env=self._environment | (environment or {}),
        )

    def run(
        self, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> dict[str, Document]:
        """Runs a command to its end; what it was, its exit code, and what it printed."""
        with self.start(*arguments, environment=environment) as process:
            try:
                out, err = process.communicate(stdin, timeout=_COMMAND_S)
            finally:
                process.kill()
        told = {
            "arguments": [self.clean(argument) for argument in arguments],
            "exit_code": process.returncode,
            "stdout": self.tell_output(out),
            "stderr": self.tell_output(_told_errors(err)),
        }
        return told | ({"environment": dict(environment)} if environment else {})

    def clean(self, text: str) -> str:
        """A text without what is different in every run."""
        for place, name in ((self.folder, "work"), (self.bundle, "bundle"), (_PACKAGE, "package")):
            text = text.replace(str(place), f"<{name}>")
        # The ports of defaults and examples stay.
        text = re.sub(r"(127\.0\.0\.1|localhost|\[::1\]):(?!(?:50051|9464|0|1)\b)\d+", r"\1:<port>", text)
        text = re.sub(r"\b\d{4}-\d\d-\d\d\b(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d)?)?", "<date>", text)
        text = re.sub(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>", text)
        text = re.sub(r"(?<![\w.])\d+\.\d+\.\d+(?:\+\w+)?(?![\w.])", "<version>", text)
        text = re.sub(r"\b(computed|from cache), \d+\.\d ms\b", r"\1, <ms>", text)
        # Which features of labels without a signal are picked follows from last digits, which differ between CPUs.
        text = re.sub(r"[\d.]+ in cross-validation \(chance", "<auroc> in cross-validation (chance", text)
        # Newer versions of argparse leave the quotes out.
        return re.sub(r"\(choose from [^)]*\)", lambda found: found[0].replace("'", ""), text)

    def tell_output(self, text: str) -> list[Document]:
        """Printed lines; those that hold JSON as what they hold."""
        return [self.tell(_parsed(line)) for line in text.splitlines()]

    def tell(self, found: Document) -> Document:
        """Values without what is different in every run, numbers to seven digits."""
        if isinstance(found, Mapping):
            return {self.clean(key): self._tell_entry(key, value) for key, value in found.items()}
        if isinstance(found, list | tuple):
            return [self.tell(part) for part in found]
        if isinstance(found, float):
            return float(f"{found:.7g}")
        return self.clean(found) if isinstance(found, str) else found

    def _tell_entry(self, key: str, value: Document) -> Document:
        if key in {"timings", "timings_ms"} and isinstance(value, Mapping):
            return sorted(value)
        if key in {"prompt_digest", "response_digest"}:
            # Keyed with a secret of the process's own.
            return f"<{key}>"
        if key == "time" or (key == "logger" and value != "scopewatch.verdicts"):
            # Loggers are named for modules, which may move, but for the one that verdicts can be filtered by.
            return f"<{key}>"
        # What a long row of short values says can be read more easily in one line.
        if key in {"features", "evidence", "examples"} and isinstance(value, list | tuple):
            return [_row(self.tell(part)) for part in value]
        return self.tell(value)


def _told_errors(text: str) -> str:
    """Standard error without what argparse and gRPC say in their own words, which change from version to version."""
    text = re.sub(r"\Ausage: .*?^(?=scopewatch.*: error: )", "<usage>\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(failed to connect to all addresses); last error: .*", r"\1", text)
    return re.sub(r'^([EIW]\d{4} \d\d:|\{.*"logger": "native").*\n', "", text, flags=re.MULTILINE)


def _parsed(line: str) -> Document:
    if line.startswith(("{", "[")):
        try:
            return json.loads(line)
        except ValueError:
            return line
    return line


def _row(part: Document) -> Document:
    """An object of plain values as one line of text."""
    if not isinstance(part, Mapping) or any(isinstance(value, Mapping | list) for value in part.values()):
        return part
    return "; ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(part.items()))


_TOPICS = """
the bridge, the harvest, the engine, the river, the new law, the market, the vaccine, the old mill, the orchestra
the glacier, the railway, the museum, the election, the satellite, the bakery, the forest, the harbour, the tunnel
the school, the comet, the dialect, the treaty, the volcano, the library, the aqueduct, the orchard, the lighthouse
the factory, the parliament, the reef, the observatory, the monastery, the canal, the archive, the stadium, the plant
"""
_HEDGED = (
    "It may well be that {} suffered, though nobody is really sure.",
    "Perhaps {} could recover, but it might also fail next year.",
    "I guess {} was probably damaged; it seems possible at least.",
    "As far as one can tell, {} might perhaps have changed, or maybe not at all.",
)
_FIRM = (
    "The report states that {} was repaired in March and opened in June.",
    "Everybody here knows that {} has two hundred visitors a day.",
    "In 1987 the council sold {} for four million pounds.",
    "To the north of the town {} covers eleven acres of flat land.",
)
_HOOKPOINT = "layers.2.resid_post"
_PROMPT = "Why is my ankle swollen?"
_GUESS = "It might be a sprain, or perhaps gout, though I am not really sure."
_FACT = "The train leaves at 14:05 from platform 3."
_EMOJI = "I think it might open at nine 🤷🏽‍♀️ — perhaps later (也许), naïve café, مرحبا 😅"


def _pairs() -> list[dict[str, Any]]:
    """Labelled pairs: of every topic one hedged statement and one firm one."""
    rows = []
    for number, topic in enumerate(re.split(r", |\n", _TOPICS.strip())):
        for label, forms in ((1, _HEDGED), (0, _FIRM)):
            text = forms[(number + number // len(forms)) % len(forms)].format(topic)
            # Some words of their own, or texts of one form would count as copies of each other.
            own = hashlib.sha256(topic.encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))
            text += f" Filed under {' '.join(own[i : i + 6] for i in range(0, 60, 6))}."
            rows.append(
                {
                    "id": f"{number}-{label}",
                    "group": topic,
                    "prompt": f"What do you know about {topic}?",
                    "response": text[0].upper() + text[1:],
                    "label": label,
                }
            )
    return rows


def _jsonl(file: Path, rows: Iterable[object]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_files(stage: _Stage) -> None:
    folder, rows = stage.folder, _pairs()
    _jsonl(folder / "labelled.jsonl", rows)
    _jsonl(folder / "few.jsonl", rows[:8])
    # Where labels can be told without a mistake, a probability map grows as steep as its solver lets it, and on every CPU
    # it stops somewhere else. Here some are exchanged.
    exchanged = [row | {"label": 1 - row["label"]} if number // 2 % 12 == 5 else row for number, row in enumerate(rows)]
    _jsonl(folder / "noisy.jsonl", exchanged)
    for name, label in (("firm", 0), ("hedged", 1)):
        chosen = [{key: row[key] for key in ("id", "prompt", "response")} for row in rows if row["label"] == label]
        _jsonl(folder / f"{name}.jsonl", chosen)
    stored = [
        {"id": "one", "prompt": _PROMPT, "response": _GUESS, "label": 1},
        {"id": "two", "response": _EMOJI, "label": 1},
        {"id": "three", "prompt": "When?", "response": _FACT, "label": 0},
        {"id": "four", "history": [{"role": "user", "content": "Hello."}], "response": "Perhaps.", "label": 1},
    ]
    _jsonl(folder / "stored.jsonl", stored)
    _jsonl(folder / "mixed.jsonl", [*stored, {"id": "five", "response": ""}])
    (folder / "broken.jsonl").write_text('{"response": "well", "label": 1}\n{"response": 7, "label": 2}\nno JSON\n')
    explained = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "typeName": "oai_token-act-pair"}
    explained |= {"explanationModelName": "gpt-4o-mini"}
    texts = ("words of doubt such as may and might", "the names of rivers", "doubt about the future")
    _jsonl(
        folder / "explanations.jsonl",
        [explained | {"index": str(number), "description": text} for number, text in enumerate(texts)],
    )
    _write_watchlists(stage)


def _write_watchlists(stage: _Stage) -> None:
    bundled = (stage.bundle / "watchlist.yaml").read_text(encoding="utf-8")
    (stage.folder / "demo.yaml").write_text(bundled, encoding="utf-8")
    following = yaml.safe_load(bundled)
    speculation, _, knowledge = following["indicators"]
    speculation |= {"threshold": 6.5, "label": "Hedged claims", "features": speculation["features"][:9]}
    speculation["features"][0]["weight"] = 0.2
    knowledge |= {"severity": "low", "card": "uncalibrated", "name": "medicine"}
    _yaml(stage.folder / "next.yaml", following | {"name": "next", "indicators": [speculation, knowledge]})
    card = yaml.safe_load(bundled)["indicators"][0]["card"]
    card["made_with"] |= {"dtype": "bfloat16"}
    del card["also_measured"]
    start = {"version": 1, "name": "clinic", "reader": {"path": "reader", "relation": "same_model"}}
    start |= {"saes": {"res": {"path": stage.sae, "hookpoint": _HOOKPOINT}}}
    _yaml(stage.folder / "clinic.yaml", start | {"indicators": _clinic_indicators(card)})
    signals = [
        {"name": "hedging", "features": [{"feature": "res/352"}, {"feature": "res/670"}], "threshold": 1.0},
        {
            "name": "confidence",
            "kind": "combination",
            "severity": "info",
            "combines": [
                {"indicator": "hedging", "weight": -0.1},
                {"signal": "mean_logprob", "weight": 1.0},
                {"signal": "mean_entropy", "weight": -0.25},
            ],
            "bias": 8.0,
            "threshold": 0.0,
        },
    ]
    _yaml(stage.folder / "signals.yaml", start | {"name": "signals", "indicators": signals})
    wrong = [
        {"name": "no spaces here", "features": [{"feature": "res/352"}], "threshold": 1},
        {"name": "a", "features": [{"feature": "other/1", "weight": 0}, {"feature": "res"}], "threshold": "high"},
        {"name": "b", "features": [], "threshold": 1.0, "severity": "grave", "colour": "red"},
        {"name": "c", "features": [{"feature": "res/1", "pooling": "median"}]},
        {
            "name": "d",
            "features": [{"feature": "res/1", "pooling": {"kind": "k_of_n", "k": 9, "n": 2}}],
            "threshold": 1,
        },
        {"name": "e", "kind": "combination", "combines": [{"indicator": "f", "weight": 1.0}], "threshold": 1},
    ]
    _yaml(stage.folder / "wrong.yaml", start | {"version": 2, "indicators": wrong})
    (stage.folder / "no.yaml").write_text("version: 1\nname: [unclosed\nreader: {\n", encoding="utf-8")


def _clinic_indicators(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Of every kind of segment, pooling and severity one, and a card that was made with something else."""
    return [
        {
            "name": "hedging",
            "label": "Hedges",
            "severity": "low",
            "features": [
                {"feature": "res/352", "label": "may, might", "weight": 0.5},
                {"feature": "res/670", "pooling": "mean", "weight": 2.0},
                {"feature": "res/79", "pooling": {"kind": "rolling_mean_max", "window": 4}},
                {"feature": "res/65", "pooling": {"kind": "k_of_n", "k": 2, "n": 20}, "weight": -0.25},
                {"feature": "res/2224", "pooling": {"kind": "k_of_n", "k": 1}, "label": "full stop", "weight": 0.1},
            ],
            "bias": -1.0,
            "threshold": 2.0,
            "probability": {"slope": 0.5, "intercept": -1.0},
        },
        {
            "name": "question",
            "segment": "prompt",
            "severity": "info",
            "pooling": "sum",
            "features": [{"feature": "res/65"}, {"feature": "res/187", "pooling": "fraction_active"}],
            "threshold": 0.5,
        },
        {
            "name": "earlier",
            "segment": "history",
            "severity": "high",
            "features": [{"feature": "res/352"}, {"feature": "res/670"}],
            "threshold": 1.0,
        },
        {
            "name": "borrowed",
            "severity": "medium",
            "features": [{"feature": "res/84", "pooling": "mean"}],
            "threshold": 0.25,
            "card": card,
        },
        {
            "name": "overall",
            "kind": "combination",
            "severity": "info",
            "combines": [{"indicator": "hedging", "weight": 0.5}, {"indicator": "borrowed", "weight": -1.5}],
            "bias": 0.75,
            "threshold": 1.0,
        },
    ]


def _yaml(file: Path, document: object) -> None:
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


# The server, from its start to its end.


def _serve_and_call(stage: _Stage, record: dict[str, dict[str, Document]]) -> None:
    limits = {
        "SCOPEWATCH_MAX_TEXT_CHARS": "20000",
        "SCOPEWATCH_MAX_LABELS": "3",
        "SCOPEWATCH_MAX_LABEL_CHARS": "40",
        "SCOPEWATCH_MAX_MESSAGE_BYTES": "200000",
        "SCOPEWATCH_WATCHLIST": "demo.yaml",
    }
    flags = ("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--reflection")
    flags += ("--watchlist", "demo.yaml", "clinic.yaml", "--max-batch-items", "8", "--max-history-turns", "4")
    server = _Server(stage, *flags, "--max-tokens", "256", environment=limits)
    try:
        with grpc.insecure_channel(server.ready["grpc_address"], options=[("grpc.enable_retries", 0)]) as channel:
            record["calls"] |= _Caller(stage, channel).all()
        record["scoring"] |= _score(stage, server.ready["grpc_address"])
        record["metrics"] |= _metrics(stage, server.ready["metrics_address"])
        free = ("serve", "--grpc-address", "127.0.0.1:0", "--metrics-address")
        record["mistakes"] |= {
            "gRPC port in use": stage.run("serve", "--grpc-address", server.ready["grpc_address"]),
            "metrics port in use": stage.run(*free, server.ready["metrics_address"]),
        }
    finally:
        record["server"] |= server.stop()


class _Server:
    """`scopewatch serve` in a process of its own.

    Args:
        stage: Where it runs.
        flags: After `serve`.
        environment: Variables beside the stage's.
    """

    def __init__(self, stage: _Stage, *flags: str, environment: Mapping[str, str]) -> None:
        self._stage = stage
        self._process = stage.start("serve", *flags, environment=environment)
        self._lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.ready = self._wait()
        """What it logged when it was ready."""

    def _read(self) -> None:
        assert self._process.stderr
        self._lines.extend(self._process.stderr)

    def _wait(self) -> dict[str, Any]:
        deadline_s = time.monotonic() + _START_S
        while time.monotonic() < deadline_s:
            ended = self._process.poll() is not None
            for line in list(self._lines):
                event = _parsed(line)
                if isinstance(event, dict) and event["event"] == "serving":
                    return event
            if ended:
                break
            time.sleep(0.02)
        self._leave()
        raise RuntimeError("the server did not start:\n" + "".join(self._lines))

    def stop(self) -> dict[str, Document]:
        """Ends the server as Kubernetes would; its exit code and what it logged."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout=60)
        finally:
            out = self._leave()
        told = [self._stage.tell(_parsed(line.rstrip("\n"))) for line in self._lines]
        for event in told:
            if isinstance(event, dict) and event.get("event") == "serving":
                event["start_s"] = "<seconds>"
                event["start_parts_s"] = list(event["start_parts_s"])
        return {"exit_code": code, "log": told, "stdout": out}

    def _leave(self) -> str:
        """Leaves no process and no open pipe behind; what the server printed."""
        self._process.kill()
        self._process.wait(timeout=60)
        self._reading.join(timeout=60)
        assert self._process.stdout
        # Leaving it closes its pipes.
        with self._process:
            return self._process.stdout.read()


class _Caller:
    """Calls a server with the generated stubs and tells what it answered.

    Args:
        stage: Cleans what is told.
        channel: To the server; it must not retry, so that no failure is hidden.
    """

    def __init__(self, stage: _Stage, channel: grpc.Channel) -> None:
        self._stage = stage
        self._channel = channel
        self._stub = monitor_pb2_grpc.MonitorServiceStub(channel)

    def all(self) -> dict[str, Document]:
        """Every call of the session, one after the other: the counts on the metrics page rest on that."""
        long = "The reservoir is drawn down in autumn and refilled when the snow melts in spring. "
        earlier = [
            pb.Turn(role="user", content="Could it be broken?"),
            pb.Turn(role="assistant", content="It may be, perhaps; probably not."),
        ]
        score = self._score
        asked: dict[str, Document] = {
            "info": self._told(self._stub.GetInfo, pb.GetInfoRequest()),
            "plain": score(request_id="caller-1", prompt=_PROMPT, response=_GUESS),
            "again, with evidence": score(
                request_id="caller-2", prompt=_PROMPT, response=_GUESS, include_evidence=True
            ),
            "a fact": score(prompt="When does it leave?", response=_FACT),
            "a fact again": score(prompt="When does it leave?", response=_FACT),
            "other watchlist, cached": score(prompt=_PROMPT, response=_GUESS, watchlist="clinic"),
            "other watchlist, everything": score(
                request_id="näive-id-😅",
                prompt="Is it broken? What do you think?",
                response=_GUESS + " It could be anything? Or nothing?",
                history=earlier,
                watchlist="clinic",
                labels={"tenant": "a", "route": "ä/β"},
                include_evidence=True,
            ),
            "emoji": score(response=_EMOJI, prompt="Is the café open? 🤔", watchlist="clinic", include_evidence=True),
            "white space and controls": score(
                response="\r\n\tmay\u00a0be\u2028 \x07perhaps \ufeff",
                prompt="\n",
                watchlist="clinic",
                include_evidence=True,
            ),
            "one letter": score(response="x", watchlist="clinic"),
            "system turn": score(
                history=[pb.Turn(role="system", content="Be brief. You may guess.")], response="No.", watchlist="clinic"
            ),
            "unknown role": score(history=[pb.Turn(role="pirate", content="Arr")], response="No.", watchlist="clinic"),
            "long response": score(prompt="Describe it.", response=long * 30 + "Perhaps.", watchlist="clinic"),
            "long prompt": score(prompt=long * 30, response=_GUESS, watchlist="clinic", include_evidence=True),
            "long history": score(
                history=[*earlier, pb.Turn(role="user", content=long * 30)],
                prompt=_PROMPT,
                response=_GUESS,
                watchlist="clinic",
            ),
            "unknown watchlist": score(response=_GUESS, watchlist="klinik"),
            "empty response": score(prompt=_PROMPT),
            "blank response": score(prompt=_PROMPT, response=" \n\t "),
            "NUL": score(prompt="a\0b", response="c\0"),
            "too long": score(response="x" * 20001),
            "too many labels": score(response=_GUESS, labels={str(number): "x" for number in range(4)}),
            "long label and id": score(response=_GUESS, labels={"key": "v" * 41}, request_id="i" * 41),
            "too many turns": score(response=_GUESS, history=[pb.Turn(role="user", content="x")] * 5),
            "turn without role": score(response=_GUESS, history=[pb.Turn(content="x")]),
            "message too large": score(response=_GUESS, history=[pb.Turn(role="user", content="文" * 19000)] * 4),
            "many mistakes": score(
                request_id="i" * 41,
                watchlist="w" * 41,
                prompt="\0",
                history=[pb.Turn(content="\0")] * 5,
                labels={f"{number}{'k' * 41}": "" for number in range(4)},
            ),
            "invalid UTF-8": self._raw("Score", b"\x1a\x03a\xffb"),
            "invalid UTF-8 in history": self._raw("Score", b"\x1a\x01a\x22\x06\x0a\x01u\x12\x01\xff"),
            "invalid UTF-8 in a batch": self._raw("BatchScore", b"\x0a\x03\x1a\x01a\x0a\x03\x1a\x01\xff"),
            "garbage": self._raw("Score", b"\xff\xff\xff\xff"),
            "no bytes": self._raw("Score", b""),
            "unknown field": self._raw("Score", b'\x1a\x04Yes.*\x06clinic\xfa\x3f\x01x"\x09\x0a\x04user\x12\x01x'),
            "unknown method": self._raw("Guess", b""),
            "batch": self._batch(
                pb.ScoreRequest(request_id="b-1", prompt=_PROMPT, response=_GUESS, watchlist="clinic"),
                pb.ScoreRequest(request_id="b-2", response=" "),
                pb.ScoreRequest(request_id="b-3", response="Certainly not.", watchlist="clinic", include_evidence=True),
                pb.ScoreRequest(request_id="b-4", response="x", watchlist="nowhere"),
                pb.ScoreRequest(response="It may be.\0", labels={str(number): "" for number in range(4)}),
                pb.ScoreRequest(response="It may be, or not.", watchlist="clinic"),
            ),
            "batch of nothing": self._batch(),
            "batch too large": self._batch(*[pb.ScoreRequest(response="x")] * 9),
        }
        for service in ("", "scopewatch.v1.MonitorService", "nothing"):
            check = health_pb2_grpc.HealthStub(self._channel).Check
            asked[f"health of {service!r}"] = self._told(check, health_pb2.HealthCheckRequest(service=service))
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(self._channel).ServerReflectionInfo(
            iter([listing]), timeout=60
        )
        asked["reflection"] = [service.name for reply in answers for service in reply.list_services_response.service]
        return asked

    def _score(self, **fields: Any) -> Document:
        return self._told(self._stub.Score, pb.ScoreRequest(**fields))

    def _batch(self, *requests: pb.ScoreRequest) -> Document:
        return self._told(self._stub.BatchScore, pb.BatchScoreRequest(requests=requests))

    def _raw(self, method: str, data: bytes) -> Document:
        """Sends bytes that no stub would send."""
        path = f"/scopewatch.v1.MonitorService/{method}"
        reply_type = {"BatchScore": pb.BatchScoreResponse}.get(method, pb.ScoreResponse)
        return self._told(
            self._channel.unary_unary(path, request_serializer=None, response_deserializer=reply_type.FromString), data
        )

    def _told(self, call: Callable[..., Any], request: Message | bytes) -> Document:
        """The reply, or everything that an error says."""
        try:
            return self._stage.tell(_as_dict(call(request, timeout=120)))
        except grpc.RpcError as error:
            return self._stage.tell(self._error(error))

    def _error(self, error: Any) -> Document:
        status = rpc_status.from_call(error)
        return {
            "code": error.code().name,
            "message": error.details(),
            "details": [_detail(detail) for detail in status.details] if status else None,
            "trailing_metadata": sorted(key for key, _ in error.trailing_metadata()),
        }


def _as_dict(message: Message) -> Document:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _detail(packed: Any) -> Document:
    """One of the details of an error, by the name of its type."""
    kinds = (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)
    for kind in kinds:
        message = kind()
        if packed.Unpack(message):
            return {kind.DESCRIPTOR.full_name: _as_dict(message)}
    return packed.type_url


def _metrics(stage: _Stage, address: str) -> dict[str, Document]:
    """The metrics page: what every family is, and the values that are the same in every run."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as page:
        text, kind = page.read().decode(), page.headers.get_content_type()
    families = [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.startswith(("process_", "python_")) and not family.name.endswith("_created")
    ]
    return {"content_type": kind} | {family.name: stage.tell(_family(family)) for family in families}


_BY_CHANCE = ("_seconds", "batch_pairs", "batch_tokens", "reused_tokens")
"""Ends of the names of metrics whose values depend on the clock, or on what happened to be computed together."""


def _family(family: Metric) -> Document:
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    by_chance = family.name.endswith(_BY_CHANCE)
    series: dict[str, list[str]] = {}
    bounds: dict[str, list[str]] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        where = sample.name.removeprefix(family.name) + json.dumps(labels, ensure_ascii=False, sort_keys=True)
        series.setdefault(where, []).append(f"{sample.value:g}")
        if "le" in sample.labels:
            bounds.setdefault(where, []).append(sample.labels["le"])
    told = {
        "type": family.type,
        "help": family.documentation,
        "labels": sorted({name for sample in samples for name in sample.labels}),
        "series": {where: "<any>" if by_chance else " ".join(values) for where, values in series.items()},
    }
    return told | ({"bounds": sorted({" ".join(found) for found in bounds.values()})} if bounds else {})


def _score(stage: _Stage, address: str) -> dict[str, Document]:
    """`score` against the running server."""
    score = ("score", "--address", address)
    clinic = (*score, "--watchlist", "clinic")
    stdin = json.dumps({"response": "It could be so."}) + "\n\n" + json.dumps({"prompt": "Is it?", "response": "No."})
    return {
        "text": stage.run(*score, "--prompt", _PROMPT, "--response", _GUESS),
        "text with evidence": stage.run(*score, "--evidence", "--response", _EMOJI),
        "JSON": stage.run(*clinic, "--json", "--evidence", "--prompt", _PROMPT, "--response", _GUESS),
        "file": stage.run(*clinic, "--file", "mixed.jsonl"),
        "standard input": stage.run(*clinic, "--json", "--file", "-", stdin=stdin),
        "unknown watchlist": stage.run(*score, "--watchlist", "klinik", "--response", _GUESS, "--json"),
    }


# Commands that need no server.


def _calibrate(stage: _Stage, record: dict[str, dict[str, Document]]) -> None:
    """From labelled pairs to watchlists, each with its evidence."""
    told = record["calibration"]
    work = ("--work-dir", "pooled")
    common = ("--max-fpr", "0.3", "--force", "--out", "made.yaml", *work)
    features = ("calibrate", "labelled.jsonl", "--indicator", "hedged", "--label", "Hedges", "--terms", "3")
    told["features"] = stage.run(*features, "--name", "made", *common)
    told["features, the file"] = _lines(stage, "made.yaml")
    probe = ("calibrate", "noisy.jsonl", "--indicator", "dense", "--kind", "probe", "--json", "--severity", "low")
    told["probe"] = _without(stage.run(*probe, *common), "watchlist_digest")
    # The digest of a direction depends on its last bits.
    told["probe"]["stdout"][0]["indicator"]["card"]["made_with"]["saes"].pop("dense_probe")
    told["noisy labels"] = stage.run("calibrate", "noisy.jsonl", "--indicator", "weak", "--terms", "3", *common)
    told["too few pairs"] = stage.run("calibrate", "few.jsonl", "--indicator", "weak", *common)
    benign = ("calibrate", "firm.jsonl", "--benign", "--indicator", "speculation", "--max-fpr", "0.1")
    told["benign"] = stage.run(*benign, "--watchlist", "demo.yaml", "--out", "benign.yaml")
    told["benign, the file"] = _lines(stage, "benign.yaml")
    told["contrast"] = stage.run(
        *("contrast", "firm.jsonl", "hedged.jsonl", "--top", "8", "--html", "contrast.html", *work)
    )
    told["contrast, the page"] = _page(stage, "contrast.html")


def _work_offline(stage: _Stage, record: dict[str, dict[str, Document]]) -> None:
    """What a reader and an SAE are and do, labels, and capacity."""
    told = record["offline"]
    run = stage.run
    told["demo"] = run("demo", "--tiny")
    told["demo"]["stdout"] = [
        re.sub(r"ready after [\d.]+ s", "ready after <s>", line) for line in told["demo"]["stdout"]
    ]
    sae = ("--reader", "reader", "--sae", stage.sae, "--hookpoint", _HOOKPOINT)
    activations = ("activations", *sae, "--features", "352,2224,670", "--prompt", _PROMPT, "--response")
    told["activations"] = run(*activations, _EMOJI)
    told["evaluate"] = run("evaluate", "labelled.jsonl", "--indicator", "speculation", "--watchlist", "demo.yaml")
    told["sae inspect, JSON"] = run("sae", "inspect", stage.sae, "--hookpoint", _HOOKPOINT, "--json")
    told["sae pack"] = run(
        "sae", "pack", stage.sae, "--hookpoint", _HOOKPOINT, "--features", "352,670", "--out", "small.pack.safetensors"
    )
    told["sae verify"] = run("sae", "verify", *sae, "--max-sample-tokens", "256")
    labels = ("--labels", "labels.db")
    told["features import"] = run("features", "import", *labels, "explanations.jsonl")
    told["features import, again"] = run("features", "import", *labels, "explanations.jsonl")
    told["features search"] = run("features", "search", *labels, "doubt")
    told["features search, JSON"] = run("features", "search", *labels, "riv", "--json", "--limit", "1")
    told["features search, nothing"] = run("features", "search", *labels, "xylophone")
    told["features show"] = run("features", "show", *labels, "gemma-2-2b/20-gemmascope-res-16k/2")
    load = ("plan", "--pairs-per-s", "50", "--tokens", "600", "--device", "bundled-cpu")
    told["plan"] = run(*load)
    told["plan, JSON"] = run(*load, "--hit-rate", "0.2", "--p95-ms", "500", "--json")


def _replay_and_scan(stage: _Stage, record: dict[str, dict[str, Document]]) -> None:
    """The life of a watchlist: checked, compared, replayed, and run over a file."""
    told = record["watchlists"]
    run = stage.run
    told["check"] = run("watchlist", "check", "demo.yaml", "clinic.yaml", "signals.yaml")
    told["check, strict"] = run("watchlist", "check", "--strict", "clinic.yaml", "--json")
    told["check, loaded"] = run("watchlist", "check", "--load", "--strict", "clinic.yaml")
    told["check, several mistakes"] = run("watchlist", "check", "wrong.yaml", "demo.yaml")
    told["check, JSON"] = run("watchlist", "check", "wrong.yaml", "no.yaml", "missing.yaml", "--json")
    told["diff"] = run("watchlist", "diff", "demo.yaml", "next.yaml")
    told["diff, JSON"] = run("watchlist", "diff", "next.yaml", "clinic.yaml", "--json")
    told["diff, nothing"] = run("watchlist", "diff", "demo.yaml", "demo.yaml")
    told["replay"] = run("watchlist", "replay", "demo.yaml", "next.yaml", "labelled.jsonl", "--limit-shown", "3")
    told["scan"] = run("scan", "mixed.jsonl", "--out", "scan.jsonl", "--watchlist", "clinic.yaml")
    told["scan, the rows"] = stage.tell(
        [_parsed(line) for line in (stage.folder / "scan.jsonl").read_text().splitlines()]
    )
    told["scan, again"] = run("scan", "mixed.jsonl", "--out", "scan.jsonl", "--watchlist", "clinic.yaml")
    told["scan, Parquet"] = run("scan", "stored.jsonl", "--out", "scan.parquet", "--watchlist", "signals.yaml")
    told["scan, Parquet, the table"] = _table(stage, "scan.parquet")


def _lines(stage: _Stage, name: str) -> Document:
    file = stage.folder / name
    return [stage.clean(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else None


def _table(stage: _Stage, name: str) -> Document:
    import pyarrow.parquet as pq

    table = pq.read_table(stage.folder / name)
    metadata = json.loads((table.schema.metadata or {})[b"scopewatch"])
    columns = {field.name: str(field.type) for field in table.schema}
    return stage.tell({"columns": columns, "metadata": metadata, "rows": table.to_pylist()})


def _without(told: dict[str, Document], *names: str) -> dict[str, Document]:
    """What a command told, less entries of its JSON that depend on the folder it ran in."""
    lines = [
        {k: v for k, v in line.items() if k not in names} if isinstance(line, dict) else line for line in told["stdout"]
    ]
    return told | {"stdout": lines}


class _Words(HTMLParser):
    """Collects what a page says, without figures and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in {"style", "script", "svg"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"style", "script", "svg"}

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.words.append(" ".join(data.split()))


def _page(stage: _Stage, name: str) -> Document:
    page = _Words()
    page.feed((stage.folder / name).read_text(encoding="utf-8"))
    return [stage.clean(word) for word in page.words]


# Mistakes.


def _make_mistakes(stage: _Stage, record: dict[str, dict[str, Document]]) -> None:
    """What people get wrong, and what the program says of it."""
    told = record["mistakes"]
    sae = ("--reader", "reader", "--sae", stage.sae, "--hookpoint", _HOOKPOINT, "--response", "x")
    serve = ("serve", "--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0")
    evaluate = ("evaluate", "--indicator", "speculation")
    calibrate = ("calibrate", "labelled.jsonl", "--indicator", "hedged")
    plan = ("plan", "--pairs-per-s", "5")
    commands: dict[str, Sequence[str]] = {
        "no command": (),
        "version": ("--version",),
        "unknown command": ("serv",),
        "unknown action": ("watchlist", "compare"),
        "unknown flag": ("serve", "--colour", "5"),
        "flag without value": ("score", "--response"),
        "required flags missing": ("calibrate", "labelled.jsonl"),
        "wrong values": ("serve", "--max-tokens", "4", "--dtype", "int8", "--grpc-address", "50051"),
        "limits that do not fit": ("serve", "--max-tokens", "2048", "--max-batch-tokens", "1024"),
        "wrong watchlist": (*serve, "--watchlist", "wrong.yaml"),
        "missing watchlist": (*serve, "--watchlist", "missing.yaml"),
        "wrong Redis URL": (*serve, "--redis-url", "http://example"),
        "missing label index": (*serve, "--labels", "missing.db"),
        "score of nothing": ("score",),
        "score of both": ("score", "--response", "x", "--file", "stored.jsonl"),
        "score of a broken file": ("score", "--file", "broken.jsonl"),
        "score of a missing file": ("score", "--file", "missing.jsonl"),
        "no server": ("score", "--address", "127.0.0.1:1", "--timeout-s", "30", "--response", "x"),
        "evaluate, broken file": (*evaluate, "broken.jsonl"),
        "evaluate, unknown indicator": ("evaluate", "labelled.jsonl", "--indicator", "speculations"),
        "activations, wrong features": ("activations", *sae, "--features", "1;2"),
        "activations, no such reader": ("activations", *sae, "--features", "1", "--reader", "./nowhere"),
        "sae, wrong folder": ("sae", "inspect", "empty"),
        "sae, too few tokens": ("sae", "verify", *sae[:6], "--max-sample-tokens", "7"),
        "features without index": ("features", "search", "doubt"),
        "features, missing index": ("features", "search", "doubt", "--labels", "missing.db"),
        "features, wrong file": ("features", "import", "--labels", "other.db", "broken.jsonl"),
        "calibrate, written over its data": (*calibrate, "--out", "labelled.jsonl"),
        "calibrate, wrong name": (*calibrate, "--out", "1.yaml"),
        "calibrate, benign and combined": (*calibrate, "--out", "x.yaml", "--benign", "--combine", "bias"),
        "calibrate, wrong share": (*calibrate, "--out", "x.yaml", "--max-fpr", "5"),
        "contrast of one": ("contrast", "firm.jsonl"),
        "contrast, no pairs": ("contrast", "firm.jsonl", "hedged.jsonl", "--paired"),
        "contrast, wrong swap": ("contrast", "firm.jsonl", "--swap", "he"),
        "scan, two watchlists": ("scan", "stored.jsonl", "--out", "x.jsonl", "--watchlist", "demo.yaml", "next.yaml"),
        "scan, wrong ending": ("scan", "stored.jsonl", "--out", "x.csv"),
        "plan, unknown device": (*plan, "--tokens", "600", "--device", "h1"),
        "plan, tokens not covered": (*plan, "--tokens", "600000", "--device", "bundled-cpu"),
        "plan, wrong curve": (*plan, "--tokens", "600", "--measured", "stored.jsonl"),
    }
    told |= {name: stage.run(*arguments) for name, arguments in commands.items()}
    variables = {
        "misspelt variable": {"SCOPEWATCH_MAX_TOKEN": "5"},
        "wrong variables": {
            "SCOPEWATCH_MAX_TOKENS": "many",
            "SCOPEWATCH_REFLECTION": "perhaps",
            "SCOPEWATCH_COLOUR": "1",
        },
    }
    told |= {name: stage.run("serve", environment=environment) for name, environment in variables.items()}


# Help.


def _ask_for_help(stage: _Stage, record: dict[str, dict[str, Document]]) -> None:
    """`--help` of the program, of its commands, and of theirs."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        command = waiting.pop()
        with stage.start(*command, "--help") as process:
            out, err = process.communicate(timeout=_COMMAND_S)
        listed = re.search(r"^  (?:COMMAND|ACTION)\n((?:    .*\n)+)", out, re.MULTILINE)
        names = re.findall(r"^    ([a-z][a-z-]*)(?: |$)", listed[1], re.MULTILINE) if listed else []
        waiting += [(*command, name) for name in names]
        # How lines are broken and indented is argparse's own; what is said begins anew at every blank line.
        text = [" ".join(part.split()) for part in re.split(r"\n(?=\n|  ?\S)", out) if part.strip()]
        record["help"][" ".join(("scopewatch", *command))] = {
            "exit_code": process.returncode,
            "text": [stage.clean(part) for part in text],
            "stderr": err,
        }


# Comparing.


def differences(recorded: Document, played: Document, path: str = "") -> list[str]:
    """Where two records differ: one line for each place, with both values.

    Texts and structures must be equal. Numbers, in texts too, may differ by what another CPU makes of them: by a
    ten-thousandth, or where a text has two digits or more after the point by one in the last.
    """
    if isinstance(recorded, dict) and isinstance(played, dict):
        found = [f"{path}/{key}: gone" for key in recorded if key not in played]
        found += [f"{path}/{key}: new, {_shown(played[key])}" for key in played if key not in recorded]
        for key in sorted(recorded.keys() & played.keys()):
            found += differences(recorded[key], played[key], f"{path}/{key}")
        return found
    if isinstance(recorded, list) and isinstance(played, list):
        found = []
        if len(recorded) != len(played):
            found.append(f"{path}: {len(recorded)} entries were recorded, there are {len(played)}")
        for number, (before, after) in enumerate(zip(recorded, played, strict=False)):
            found += differences(before, after, f"{path}/{number}")
        return found
    return [] if _alike(recorded, played) else [f"{path}: recorded {_shown(recorded)}, played {_shown(played)}"]


def _alike(recorded: Document, played: Document) -> bool:
    if isinstance(recorded, str) and isinstance(played, str):
        return recorded == played or _texts_alike(recorded, played)
    numbers = not any(isinstance(value, bool) for value in (recorded, played))
    if numbers and isinstance(recorded, int | float) and isinstance(played, int | float):
        both_counts = isinstance(recorded, int) and isinstance(played, int)
        return recorded == played if both_counts else _close(recorded, played)
    return bool(type(recorded) is type(played) and recorded == played)


_NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?!\w|\.\d)")


def _texts_alike(recorded: str, played: str) -> bool:
    before, after = _NUMBER.split(recorded), _NUMBER.split(played)
    # Every second part is a number.
    return len(before) == len(after) and all(
        _numbers_alike(one, other) if number % 2 else one.split() == other.split()
        for number, (one, other) in enumerate(zip(before, after, strict=True))
    )


def _numbers_alike(recorded: str, played: str) -> bool:
    both = (recorded, played)
    if all(re.fullmatch(r"[-+]?\d+", number) for number in both):
        return recorded == played
    digits = 0 if any("e" in number for number in both) else max(len(number.partition(".")[2]) for number in both)
    return _close(float(recorded), float(played), 10.0**-digits if digits >= 2 else 0.0)


def _close(recorded: float, played: float, step: float = 0.0) -> bool:
    return abs(recorded - played) <= max(1e-4, 1e-4 * abs(recorded), 1.001 * step)


def _shown(value: Document) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + " …"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.stdout.write(as_json(play(Path(temporary))))
