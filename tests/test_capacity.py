"""`bench` and `plan`: the arithmetic against numbers worked out by hand, and both commands on the bundled reader."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import House
from scopewatch.app.load import load
from scopewatch.capacity.as_text import kustomization
from scopewatch.capacity.benchmark import engine_rates
from scopewatch.capacity.curve import Curve, read_curve, shipped_curve, shipped_curves
from scopewatch.capacity.plan import Load, Plan, plan, queueing_p95_s
from scopewatch.capacity.random_pairs import RandomPairs
from scopewatch.capacity.time_budget import TimeBudget
from scopewatch.cli import bench, main
from scopewatch.config import Config
from scopewatch.errors import ConfigError, SetupError
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.server_process import running_server
from scopewatch.types import TokenisedPair

ROOT = Path(__file__).parents[1]


def document(**changes: Any) -> dict[str, Any]:
    """A curve on a CPU; changes are `part__field`."""
    points = [(64, 1000.0, 15.0, 20.0), (256, 2000.0, 40.0, 50.0), (1024, 3000.0, 190.0, 200.0)]
    made: dict[str, Any] = {
        "version": 1,
        "made": "2026-01-02",
        "rounds": 3,
        "machine": {
            "name": "EPYC",
            "kind": "cpu",
            "cores": 4,
            "architecture": "x86_64",
            "versions": {"scopewatch": "0.1.0", "torch": "2.13.0"},
            "load_before": 0.1,
        },
        "reads": {
            "watchlists": ["clinic"],
            "reader": "google/gemma-3-270m",
            "revision": "",
            "reader_digest": "a" * 64,
            "layers_run": 13,
            "layers_total": 18,
            "dtype": "float32",
            "attention": "sdpa",
            "watched": 32,
            "saes": 1,
            "watched_digest": "b" * 64,
        },
        "ran": {
            "torch_threads": 3,
            "max_tokens": 1024,
            "max_batch_tokens": 4096,
            "prefix_cache_bytes": 256 << 20,
            "cache_bytes": 64 << 20,
        },
        "points": [dict(zip(("tokens", "tokens_per_s", "lone_ms", "call_ms"), row, strict=True)) for row in points],
        "service": {
            "tokens": 256,
            "computed_ratio": 0.8,
            "engine_busy": 0.82,
            "cached_pairs_per_s": 5000.0,
            "start_s": 4.0,
        },
        "memory": {"rest_mib": 700, "peak_mib": 900, "device_rest_mib": None, "device_peak_mib": None},
    }
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            made[part][field] = value
        else:
            made[part] = value
    return made


def curve(**changes: Any) -> Curve:
    return Curve.model_validate_json(json.dumps(document(**changes)))


def values(worked_out: Plan, *names: str) -> list[float | None]:
    return [getattr(worked_out, name).value for name in names]


LOAD = Load(pairs_per_s=50, tokens=512, hit_rate=0.2)


# The arithmetic


def test_replicas_are_what_comes_out_by_hand() -> None:
    """2,500 tokens/s halfway (in log length), 80 % of it by gRPC: 3.906 pairs/s; 40 misses at 0.7 need 14.6 replicas."""
    names = ("engine_pairs_per_s", "computed_pairs_per_s", "replicas", "utilisation")

    assert [4.88, 3.91, 15, 0.683] == values(plan(LOAD, curve()), *names)


def test_a_measured_length_has_its_measured_rate() -> None:
    """At a length that was measured, nothing is interpolated, and the plan says so."""
    worked_out = plan(replace(LOAD, tokens=256), curve())

    assert [round(2000 / 256, 2), 50.0] == values(worked_out, "engine_pairs_per_s", "lone_pair_ms")
    assert "at 256 tokens" in worked_out.engine_pairs_per_s.source


def test_latency_is_linear_between_lengths() -> None:
    """512 lies a third of the way from 256 (50 ms) to 1,024 (200 ms)."""
    assert [100.0] == values(plan(LOAD, curve()), "lone_pair_ms")


def test_settings_and_resources_by_hand() -> None:
    """1.25 (900 + 64 + 256) MiB in steps of 64; three threads and the event loop; 5 s at 2,000 tokens/s through gRPC."""
    names = ("memory_mib", "device_memory_mib", "cpu_cores", "torch_threads", "max_batch_tokens", "max_queue_tokens")

    assert [1536, None, 4, 3, 4096, 10_000] == values(plan(LOAD, curve()), *names)


def test_on_a_gpu_the_prefixes_lie_on_the_device() -> None:
    """1.25 (900 + 64) MiB here, 1.25 (2,000 + 256) MiB there."""
    memory = {"rest_mib": 700, "peak_mib": 900, "device_rest_mib": 1500, "device_peak_mib": 2000}
    worked_out = plan(LOAD, curve(machine__kind="cuda", memory=memory))

    assert [1216, 2880, 2] == values(worked_out, "memory_mib", "device_memory_mib", "cpu_cores")


def test_what_was_not_measured_is_not_made_up() -> None:
    """A curve from a system that does not tell memory gives a plan, and a kustomization, without it."""
    memory = dict.fromkeys(("rest_mib", "peak_mib", "device_rest_mib", "device_peak_mib"))
    worked_out = plan(LOAD, curve(memory=memory))

    assert [None] == values(worked_out, "memory_mib")
    assert "memory" not in kustomization(worked_out)


@pytest.mark.parametrize(
    ("load", "replicas", "bound"),
    [
        pytest.param(Load(10_000, 512, hit_rate=1.0), 3, "all pairs at the cached rate", id="hits only"),
        pytest.param(Load(10_000, 512, hit_rate=0.9999), 3, "all pairs at the cached rate", id="few misses"),
        pytest.param(Load(10_000, 512, hit_rate=0.999), 4, "cache misses", id="more misses"),
        pytest.param(Load(0.001, 512), 1, "cache misses", id="hardly any load"),
        pytest.param(Load(3.90625 * 0.7 * 20, 512), 20, "cache misses", id="exactly full"),
    ],
)
def test_the_service_has_a_ceiling_of_its_own(load: Load, replicas: int, bound: str) -> None:
    """10,000 pairs/s at 5,000 cached ones each keep two replicas busy, three at 0.7, however many hit."""
    worked_out = plan(load, curve())

    assert [replicas] == values(worked_out, "replicas")
    assert worked_out.replicas.source.startswith(bound)


def test_a_service_is_not_faster_than_its_engine() -> None:
    """A ratio above one counts as one."""
    worked_out = plan(LOAD, curve(service__computed_ratio=1.03))

    assert values(worked_out, "engine_pairs_per_s") == values(worked_out, "computed_pairs_per_s")


@pytest.mark.parametrize(("ratio", "warned"), [(0.8, False), (0.9, False), (0.7, True), (1.03, True)])
def test_a_noisy_measurement_is_noticed(ratio: float, warned: bool) -> None:
    """Where the engine was busy 82 % of the time, far more or less than that through gRPC is said to be noise."""
    worked_out = plan(LOAD, curve(service__computed_ratio=ratio))

    assert warned == any("measure again" in said for said in worked_out.assumptions)


def test_longer_pairs_are_truncated_aloud() -> None:
    """Pairs beyond `max_tokens` cost what the longest cost, and the plan says how much of them is read."""
    worked_out = plan(replace(LOAD, tokens=5000), curve())

    assert [round(3000 / 1024, 2)] == values(worked_out, "engine_pairs_per_s")
    assert (
        "one pass of max_tokens is counted: 1024 of 5000 tokens; long responses take several" in worked_out.assumptions
    )


def test_p95_by_hand() -> None:
    """At 0.6827 busy with 256 ms each: 100 ms, and 1.6827 * 256 * ln(0.6827 / 0.05) / (2 * 0.3173) = 1774.2 ms."""
    assert [1874.2] == values(plan(LOAD, curve()), "p95_ms")


def test_p95_adds_as_few_replicas_as_keep_it() -> None:
    """With one replica less than planned, the formula gives more than is allowed."""
    allowed_ms = 300

    def p95_ms(replicas: int) -> float:
        busy = 50 * 0.8 / (0.8 * 2500 / 512) / replicas
        return 100 + 1000 * 0.256 * (1 + busy) * math.log(busy / 0.05) / (2 * (1 - busy))

    worked_out = plan(replace(LOAD, p95_ms=allowed_ms), curve())

    assert worked_out.replicas.value == next(n for n in range(15, 1000) if p95_ms(n) <= allowed_ms) > 15
    assert worked_out.p95_ms.value <= allowed_ms


@pytest.mark.parametrize("utilisation", [0.2, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_the_waiting_estimate_is_on_the_safe_side(utilisation: float, batch: int) -> None:
    """Simulated, 95 of 100 pairs that arrive at random take 0.5 to 1.15 times the estimate in batches of any size."""
    simulated = simulated_p95(utilisation, batch)

    assert 0.5 <= simulated / (1 + queueing_p95_s(utilisation, 1.0)) <= 1.15


def simulated_p95(utilisation: float, batch: int, pairs: int = 30_000) -> float:
    """Time in the system at the 95th percentile: one server, 1 s a pair, batches of what is there, nobody idle."""
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / utilisation, pairs))
    now, first = 0.0, 0
    took = []
    while first < pairs:
        now = max(now, arrivals[first])
        last = min(first + batch, int(np.searchsorted(arrivals, now, side="right")))
        now += last - first
        took.append(now - arrivals[first:last])
        first = last
    return float(np.percentile(np.concatenate(took), 95))


def test_the_plan_becomes_a_kustomization(tmp_path: Path) -> None:
    """kubectl takes the printed snippet over `deploy/base`; the pods get what the plan says, and start with it."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    shutil.copytree(ROOT / "deploy" / "base", tmp_path / "base")
    snippet = kustomization(plan(LOAD, curve()))
    (tmp_path / "kustomization.yaml").write_text("namespace: scopewatch\nresources: [base]\n" + snippet)
    done = subprocess.run([kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    rendered = list(yaml.safe_load_all(done.stdout))
    named = {(found["kind"], found["metadata"]["name"].split("-")[0]): found for found in reversed(rendered)}
    deployment = next(f for f in rendered if f["kind"] == "Deployment" and f["metadata"]["name"] == "scopewatch")
    resources = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]
    data = named["ConfigMap", "scopewatch"]["data"]
    assert 15 == deployment["spec"]["replicas"]
    assert {"requests": {"cpu": "4", "memory": "1536Mi"}, "limits": {"memory": "1536Mi"}} == resources
    settings = Config.model_validate({name.removeprefix("SCOPEWATCH_").lower(): value for name, value in data.items()})
    assert (3, 10_000) == (settings.torch_threads, settings.max_queue_tokens)


# Mistakes


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("pairs_per_s", value) for value in (0, -1, math.nan, math.inf)),
        *(("tokens", value) for value in (0, -5)),
        *(("hit_rate", value) for value in (-0.1, 1.5, math.nan)),
        *(("utilisation", value) for value in (0, 1, -1, math.nan)),
        *(("p95_ms", value) for value in (0, -1, math.nan, math.inf)),
        *(("queue_wait_s", value) for value in (0, -1, math.nan, math.inf)),
    ],
)
def test_a_wrong_load_is_refused(flag: str, value: float) -> None:
    """A value that cannot be names its flag and what is expected."""
    given: dict[str, Any] = {"pairs_per_s": 50, "tokens": 512} | {flag: value}

    with pytest.raises(ConfigError, match=f"^--{flag.replace('_', '-')} {value}: expected "):
        Load(**given)


def test_shorter_pairs_than_measured_are_refused() -> None:
    """Below the measured lengths nothing is guessed."""
    with pytest.raises(ConfigError, match="--tokens 63: pairs were measured from 64 to 1024 tokens"):
        plan(replace(LOAD, tokens=63), curve())


def test_a_latency_that_no_number_of_replicas_gives_is_refused() -> None:
    """A p95 below what one pair takes alone names the flag and the time."""
    with pytest.raises(ConfigError, match=r"--p95-ms 99: a lone pair of 512 tokens takes 100\.0 ms"):
        plan(replace(LOAD, p95_ms=99), curve())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("{", "Invalid JSON", id="cut"),
        pytest.param("", "Invalid JSON", id="empty"),
        pytest.param("[" * 100_000, "Invalid JSON", id="deep"),
        pytest.param("\ufeff{}", "Invalid JSON", id="byte order mark"),
        pytest.param("[]", "object", id="no object"),
        pytest.param(json.dumps({"version": 2}), "version: Input should be 1", id="another version"),
        pytest.param(json.dumps(document(rounds=0)), "rounds: Input should be greater", id="no rounds"),
        pytest.param(json.dumps(document(extra=1)), "extra: Extra inputs are not permitted", id="unknown field"),
        pytest.param(json.dumps(document(points=[])), "points: List should have at least 1 item", id="no points"),
        pytest.param(json.dumps(document(ran__max_tokens=2048)), "end with ran.max_tokens", id="not to the end"),
        pytest.param(
            json.dumps(document(points=document()["points"][::-1])), "tokens must ascend", id="points out of order"
        ),
        pytest.param(
            json.dumps(document(service__computed_ratio=math.nan)),
            "service.computed_ratio: Input should be a finite number",
            id="not a number",
        ),
        pytest.param(
            json.dumps(document(service__cached_pairs_per_s=0)), "service.cached_pairs_per_s: Input", id="zero rate"
        ),
        pytest.param(json.dumps(document(ran__torch_threads="3")), "ran.torch_threads: Input", id="text for a number"),
    ],
)
def test_a_damaged_curve_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file and the field, and says how to make a curve."""
    file = tmp_path / "curve.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError) as refused:
        read_curve(file)

    assert str(refused.value).startswith(f"{file}: ")
    assert said in str(refused.value)
    assert "scopewatch bench --watchlist W.yaml --out FILE.json" in str(refused.value)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_curve_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    """A file that is not there, or is a folder, is named."""
    with pytest.raises(SetupError, match="cannot be read"):
        read_curve(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["plan", "--tokens", "9", "--device", "x"], "required: --pairs-per-s", id="no load"),
        pytest.param(["plan", "--pairs-per-s", "9", "--tokens", "9"], "--device --measured is required", id="no curve"),
        pytest.param(
            ["plan", "--pairs-per-s", "9", "--tokens", "9", "--device", "../x"],
            f"--device ../x: no such curve; there are: {', '.join(shipped_curves())}; or make one",
            id="unknown device",
        ),
        pytest.param(
            ["plan", "--pairs-per-s", "nan", "--tokens", "9", "--device", "x"], "--pairs-per-s nan: expected", id="nan"
        ),
        pytest.param(["plan", "--pairs-per-s", "9", "--tokens", "1.5"], "--tokens: invalid int", id="part of a token"),
        pytest.param(["bench", "--rounds", "0"], "--rounds 0: expected at least 1", id="no rounds"),
        pytest.param(["bench", "--within-s", "0"], "--within-s 0: expected a number of seconds", id="no time"),
        pytest.param(["bench", "--within-s", "nan"], "--within-s nan: expected a number", id="no number of seconds"),
        pytest.param(
            ["bench", "--out", "absent/curve.json"], "--out absent/curve.json: expected a file", id="no folder"
        ),
        pytest.param(["bench", "--out", "/"], "--out /: expected a file", id="a folder"),
        pytest.param(["bench", "--watchlist", "absent.yaml"], "absent.yaml", id="no watchlist"),
    ],
)
@pytest.mark.usefixtures("logging_as_it_was")
def test_a_wrong_command_line_exits_with_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear line names what is wrong, before anything is measured."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()

    assert (2, "") == (left.value.code, out)
    assert said in err
    assert "Traceback" not in err


# Measuring


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    """Its last lines are in the error."""
    settings = {"watchlist": (tmp_path / "absent.yaml",)}

    with pytest.raises(SetupError, match=r"(?s)did not start:.*absent\.yaml"), running_server(settings):
        pass


@pytest.mark.parametrize("tokens", [16, 100, 200, 256])
def test_texts_have_the_length_asked_for(house: House, plain_house: House, tokens: int) -> None:
    """Exactly so many token ids, with a chat template or without; pairs within a tenth and a few tokens."""
    for directory in (house.reader, plain_house.reader):
        tokeniser = Tokeniser(directory, max_tokens=256)
        random_pairs = RandomPairs(tokeniser)
        read = tokeniser.tokenise(random_pairs.pairs(8, tokens))

        assert [tokens] * 8 == [len(ids) for ids in random_pairs.token_ids(8, tokens)]
        counted = [pair.coverage.tokens for pair in read if isinstance(pair, TokenisedPair)]
        if tokens >= 100:
            assert np.mean(counted) == pytest.approx(tokens, rel=0.1, abs=8)


def test_no_cache_helps_with_the_texts() -> None:
    """Over several batches of long texts, the engine finds no beginning that it knows."""
    engine = load(Config(max_tokens=512, max_batch_tokens=2048)).engine
    random_pairs = RandomPairs(engine.tokeniser)

    assert [0, 0, 0] == [engine.runner(random_pairs.token_ids(4, 512)).reused_tokens for _ in range(3)]
    again = random_pairs.token_ids(4, 512)
    assert [0, 0, 4 * 448] == [engine.runner(again).reused_tokens for _ in range(3)]


class Clock:
    """A clock that goes on when it is told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def engine(self, tokens_per_s: float, *, compiles_s: float = 0.0, device: str = "cpu") -> Any:
        """An engine that takes its time by this clock, and more for the first batch of each length."""
        met: set[int] = set()
        self.batches: list[tuple[int, int]] = []
        """Of each batch, the number of its pairs and their length."""

        def runner(batch: list[np.ndarray]) -> Any:
            size = len(batch[0])
            self.batches.append((len(batch), size))
            self.now_s += len(batch) * size / tokens_per_s + compiles_s * (size not in met)
            met.add(size)
            return SimpleNamespace(activations=[None] * len(batch))

        identity = SimpleNamespace(reader=SimpleNamespace(device=device))
        return SimpleNamespace(runner=runner, max_batch_tokens=16_384, identity=identity)

    def pairs(self, per_s: float = 1e5) -> Any:
        """Makes texts, of which so many tokens take a second."""

        def token_ids(count: int, tokens: int) -> list[np.ndarray]:
            self.now_s += count * tokens / per_s
            return [np.zeros(tokens, np.int32)] * count

        return SimpleNamespace(token_ids=token_ids)


@pytest.mark.parametrize(
    ("tokens_per_s", "within_s", "rounds"),
    [
        pytest.param(100_000.0, 40.0, 3, id="a GPU reads everything as often as it was asked to"),
        pytest.param(100_000.0, 10.0, 1, id="in less time, fewer rounds"),
        pytest.param(1_000.0, 40.0, 1, id="a slow machine reads each length once, however long that takes"),
    ],
)
def test_rounds_that_do_not_fit_are_left_out(tokens_per_s: float, within_s: float, rounds: int) -> None:
    """Each length is read in full batches at least once; the rates are the engine's, with nothing of compiling in them."""
    clock, sizes, said = Clock(), [16, 256, 2048], list[str]()
    engine = clock.engine(tokens_per_s, compiles_s=2.0, device="cuda")
    budget = TimeBudget(within_s, clock)

    found = engine_rates(engine, clock.pairs(), sizes, 3, say=lambda part, _: said.append(part), budget=budget)

    assert dict.fromkeys(sizes, rounds) == {size: len(rates.tokens_per_s) for size, rates in found.items()}
    for size, rates in found.items():
        assert rates.tokens_per_s == pytest.approx([tokens_per_s] * rounds)
        assert rates.lone_ms == pytest.approx([1000 * size / tokens_per_s] * 3 * rounds)
    assert ["engine, to warm up", *(f"engine, round {number} of 3" for number in range(1, rounds + 1))] == list(
        dict.fromkeys(said)
    )
    if rounds == 3:
        assert clock() < within_s


def test_rounds_shrink_before_they_are_left_out() -> None:
    """With less time there are fewer batches in a round, and as many rounds."""
    counted = []
    for within_s in (1000.0, 1.0):
        clock = Clock()
        engine, budget = clock.engine(500_000.0), TimeBudget(within_s, clock)
        found = engine_rates(engine, clock.pairs(per_s=1e6), [64, 512], 2, say=lambda *_: None, budget=budget)
        counted.append(sum(pairs > 3 for pairs, _ in clock.batches))

        assert [2, 2] == [len(rates.tokens_per_s) for rates in found.values()]

    # One of each length to warm up; then, in each of two rounds, half a second of each length or what there is.
    assert [2 + 2 * 2 * 16, 2 + 2 * 2 * 4] == counted


class Terminal(io.StringIO):
    """Standard error of somebody who looks at it."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_line_for_each_part_or_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the seconds so far; a terminal shows each length too, and is left as it was."""
    shown = []
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with bench._progress() as say:
            for what in ("16 tokens", "64 tokens"):
                say("engine, round 1 of 3", what)
            say("service", "")
        shown.append(stream.getvalue())

    assert re.fullmatch(r" +0\.\d s  engine, round 1 of 3\n +0\.\d s  service\n", shown[0])
    assert "\n" not in shown[1]
    assert ["engine, round 1 of 3, 16 tokens", "engine, round 1 of 3, 64 tokens", "service"] == re.findall(
        r"00:0\d  ([^\r ][^\r]*?) *(?=\r)", shown[1]
    )


def test_a_share_of_the_time_leaves_the_rest() -> None:
    """Shares are of what is left, without what is laid aside, and never less than nothing."""
    clock = Clock()
    budget = TimeBudget(100.0, clock)
    clock.now_s = 20.0

    assert 40.0 == budget.share(0.5).within_s
    assert 30.0 == budget.share(0.5, without_s=20.0).within_s
    assert 0.0 == budget.share(0.5, without_s=90.0).within_s
    clock.now_s = 300.0
    assert (0.0, 280.0) == (budget.left_s, budget.spent_s - 20.0)
    assert [1] == list(budget.rounds(5))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file that `bench` wrote, and what it printed."""
    out = tmp_path_factory.mktemp("bench") / "curve.json"
    command = [sys.executable, "-m", "scopewatch", "bench", "--rounds", "1", "--max-tokens", "96"]
    command += ["--max-batch-tokens", "256", "--torch-threads", "1", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert "engine, round 1 of 1" in done.stderr
    assert "service, round 1 of 1" in done.stderr
    return out, done.stdout


def test_bench_says_what_was_measured(measured: tuple[Path, str]) -> None:
    """The curve holds the settings in force, the reader and the watched set, every length, and a date."""
    found = read_curve(measured[0])
    engine = load(Config(max_tokens=96, max_batch_tokens=256, device="cpu")).engine

    assert [16, 64, 96] == [point.tokens for point in found.points]
    assert (1, 96, 256) == (found.ran.torch_threads, found.ran.max_tokens, found.ran.max_batch_tokens)
    assert (engine.identity.reader.digest, len(engine.identity.features)) == (
        found.reads.reader_digest,
        found.reads.watched,
    )
    assert ("cpu", "float32", ["demo"]) == (found.machine.kind, found.reads.dtype, found.reads.watchlists)
    assert abs((datetime.now(UTC).date() - found.made).days) <= 1


def test_bench_measures_a_real_server(measured: tuple[Path, str]) -> None:
    """Cached pairs are faster than computed ones, a call takes longer than nothing, memory is that of a process."""
    found = read_curve(measured[0])

    assert found.service.cached_pairs_per_s > found.points[-1].pairs_per_s * found.service.computed_ratio
    assert 100 < found.memory.rest_mib <= found.memory.peak_mib
    assert (None, None) == (found.memory.device_rest_mib, found.memory.device_peak_mib)
    assert 0.3 < found.service.engine_busy <= 1
    assert found.service.start_s > 0.5


def test_bench_prints_its_table(measured: tuple[Path, str]) -> None:
    """Each length has a row with tokens/s and pairs/s as the file has them."""
    file, printed = measured
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]

    assert [
        [str(point.tokens), f"{point.tokens_per_s:.0f}", f"{point.pairs_per_s:.2f}"]
        for point in read_curve(file).points
    ] == [row[:3] for row in rows]


def test_plan_takes_what_bench_wrote(measured: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The replicas are those of the file's own rate, and the reader is named."""
    file, _ = measured
    found = read_curve(file)
    with pytest.raises(SystemExit) as left:
        main(["plan", "--pairs-per-s", "5000", "--tokens", "64", "--measured", str(file), "--json"])
    worked_out = json.loads(capsys.readouterr().out)
    rate = found.points[1].tokens_per_s / 64 * min(1, found.service.computed_ratio)

    assert 0 == left.value.code
    assert math.ceil(5000 / min(rate, found.service.cached_pairs_per_s) / 0.7) == worked_out["replicas"]["value"]
    assert found.reads.reader_digest == worked_out["measured"]["reads"]["reader_digest"]


@pytest.mark.parametrize("name", shipped_curves())
def test_a_shipped_curve_makes_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every curve that comes with scopewatch is readable, and the plan shows whose it is and each figure's origin."""
    with pytest.raises(SystemExit) as left:
        main(["plan", "--pairs-per-s", "50", "--tokens", "600", "--device", name])
    out = capsys.readouterr().out

    assert 0 == left.value.code
    assert out.startswith("reader   ")
    assert "This holds for no other reader, watched set or dtype." in out
    assert "max_queue_tokens" in out


def test_a_curve_of_the_bundled_watchlist_ships() -> None:
    """`--device bundled-cpu` is there, and was measured with what `scopewatch serve` serves by default."""
    found = shipped_curve("bundled-cpu")
    engine = load(Config()).engine

    assert engine.identity.reader.layers_run == found.reads.layers_run
    assert len(engine.identity.features) == found.reads.watched
    assert engine.max_tokens == found.ran.max_tokens


def test_a_reader_that_leaves_is_no_error() -> None:
    """Output into a pipe that nobody reads any more, as with `| head`, ends quietly."""
    command = [
        sys.executable,
        "-m",
        "scopewatch",
        "plan",
        "--pairs-per-s",
        "5",
        "--tokens",
        "100",
        "--device",
        "bundled-cpu",
    ]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)

    assert (141, "") == (done.returncode, done.stderr)
