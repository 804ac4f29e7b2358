"""The rules of deploy/monitoring, by a real promtool: every alert fires, does not fire and ends, and PSI is PSI."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import need

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))
sys.path.insert(0, str(ROOT / "tools" / "monitoring"))

import scaled_rules  # noqa: E402

SECTIONS = ["## What it means", "## Look first", "## What to do", "## When to silence it"]
FIRING = re.compile(r'ALERTS\{alertname="(\w+)", alertstate="firing"\}')


@cache
def loaded(file: Path) -> Any:
    return yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)


def rules() -> Iterator[dict[str, Any]]:
    for file in RULES:
        for group in loaded(file)["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: object) -> str:
    """What promtool says; it must not complain."""
    need("promtool")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_tests(folder: Path, rule_files: list[Path], *tests: dict[str, Any], evaluation_interval: str = "1m") -> None:
    """Runs promtool tests that are made here."""
    document = {"rule_files": list(map(str, rule_files)), "evaluation_interval": evaluation_interval, "tests": tests}
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    promtool("test", "rules", file)


@pytest.mark.system
def test_promtool_accepts_the_rules() -> None:
    """Syntax, templates of annotations, and no rule twice."""
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert said.count("SUCCESS") == len(RULES) > 4


@pytest.mark.system
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_do_what_their_tests_say(file: Path) -> None:
    promtool("test", "rules", file)


@dataclass(frozen=True)
class Looked:
    """What a test of promtool expects of one alert, one look after another in time."""

    test: str
    fired: tuple[bool, ...]
    labels: tuple[str, ...]
    """The series that fire, as they are written."""


def looks() -> Iterator[tuple[str, Looked]]:
    for file in TESTS:
        for test in loaded(file)["tests"]:
            found: dict[str, list[dict[str, Any]]] = {}
            for look in test["promql_expr_test"]:
                alert = FIRING.fullmatch(look["expr"])
                assert alert, f"{file.name}: {look['expr']} is not a look at one alert"
                found.setdefault(alert[1], []).append(look)
            for name, alerts in found.items():
                in_order = sorted(alerts, key=lambda look: seconds(look["eval_time"]))
                labels = tuple(sample["labels"] for look in alerts for sample in look["exp_samples"])
                yield name, Looked(test["name"], tuple(bool(look["exp_samples"]) for look in in_order), labels)


def seconds(duration: str) -> int:
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+)([dhms])", duration))


def missing_cases(found: list[Looked]) -> list[str]:
    """Which of the three things an alert has to show are not shown by its tests."""
    shown = {
        "fires": any(any(look.fired) for look in found),
        "does not fire": any(not any(look.fired) for look in found),
        "ends": any((True, False) in zip(look.fired, look.fired[1:], strict=False) for look in found),
    }
    return [case for case, there in shown.items() if not there]


def test_every_alert_has_all_three_cases() -> None:
    """Each alert is shown to fire, to end after it fired, and, in a test of its own, not to fire at all."""
    found: dict[str, list[Looked]] = {name: [] for name in ALERTS}
    for name, look in looks():
        found[name].append(look)
    assert {name: missing for name, looked in found.items() if (missing := missing_cases(looked))} == {}


def test_a_missing_case_is_noticed() -> None:
    fires, ends, quiet = (Looked("", fired, ()) for fired in ((False, True), (True, False), (False, False)))
    assert missing_cases([fires, quiet]) == ["ends"]
    assert missing_cases([fires, ends]) == ["does not fire"]
    assert missing_cases([quiet]) == ["fires", "ends"]


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_what_to_do(name: str) -> None:
    """It has a severity, a summary, a description and a runbook, whose page has all sections and names it."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    page = ROOT / alert["annotations"]["runbook_url"]
    assert page == ROOT / "docs" / "runbooks" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS
    assert f"`{alert['labels']['severity']}`" in text


def test_no_runbook_is_left_over() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == set(ALERTS)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_texts_name_labels_that_the_alert_has(name: str) -> None:
    """A label in an annotation is one that the alert has when it fires; else the text would have a hole."""
    fired = [labels for alert, look in looks() if alert == name for labels in look.labels]
    wanted = set(re.findall(r"\$labels\.(\w+)", "".join(ALERTS[name]["annotations"].values())))
    for labels in fired:
        assert wanted <= set(re.findall(r"(\w+)=", labels))


def test_recorded_names_say_level_metric_and_operation() -> None:
    """`level:metric:operations`, and no two rules record the same series."""
    recorded = [(rule["record"], str(rule.get("labels"))) for rule in rules() if "record" in rule]
    assert [name for name, _ in recorded if not re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", name)] == []
    assert len(recorded) == len(set(recorded)) > 40


def test_what_a_rule_reads_is_recorded_before_it_in_its_group() -> None:
    """Groups are evaluated side by side, in any order: a rule that read another group's record would read the last one."""
    for file in RULES:
        for group in loaded(file)["groups"]:
            recorded: set[str] = set()
            for rule in group["rules"]:
                assert set(re.findall(r"\b[a-z_]+:[a-z_]+:[a-z0-9_]+", rule["expr"])) <= recorded, rule
                recorded.add(rule.get("record", ""))


def numpy_psi(counts: np.ndarray, reference: np.ndarray, reference_pairs: int) -> float:
    """PSI with half a pair more in every bin of both sides, in float64."""
    now = (counts + 0.5) / (counts + 0.5).sum()
    then = (reference * reference_pairs + 0.5) / (reference * reference_pairs + 0.5).sum()
    return float(((now - then) * np.log(now / then)).sum())


def drifting(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs that fell into bins in each minute on each of three processes, the reference's shares, and its pairs.

    Some bins stay empty on either side.
    """
    random = np.random.default_rng(seed)
    bins, reference_pairs = int(random.integers(3, 10)), int(random.integers(100, 3000))
    rates = random.integers(0, 40, size=(3, bins)) * (random.random((3, bins)) > 0.2) + np.eye(3, bins, dtype=int) * 6
    reference = random.multinomial(reference_pairs, random.dirichlet(np.ones(bins))) / reference_pairs
    return rates, reference, reference_pairs


def bin_series(kind: str, labels: str, seed: int) -> tuple[list[dict[str, str]], float, float]:
    """Input of promtool for one indicator or feature, its PSI and its noise floor by numpy."""
    rates, reference, reference_pairs = drifting(seed)
    series = []
    for process, of_process in enumerate(rates):
        own = f'job="j", instance="{process}", {labels}, reference="r"'
        for index, (rate, ratio) in enumerate(zip(of_process, reference, strict=True)):
            series += [
                {"series": f'scopewatch_{kind}_bin_pairs_total{{{own}, bin="{index}"}}', "values": f"1000+{rate}x90"},
                {
                    "series": f'scopewatch_{kind}_reference_ratio{{{own}, bin="{index}"}}',
                    "values": f"{float(ratio)}x90",
                },
            ]
        of_indicator = re.sub(r', feature="[^"]*"', "", own)
        pairs = {"series": f"scopewatch_reference_pairs{{{of_indicator}}}", "values": f"{reference_pairs}x90"}
        series.append(pairs)
    counts = rates.sum(axis=0) * 60.0
    floor = (len(reference) - 1) * (1 / counts.sum() + 1 / reference_pairs)
    return series, numpy_psi(counts, reference, reference_pairs), float(floor)


def close(metric: str, value: float) -> dict[str, Any]:
    """A look at a metric that is met where it differs from a value by less than a hundredth of it."""
    return {
        "expr": f"sum(abs({metric} / {value!r} - 1) < bool 0.01)",
        "eval_time": "80m",
        "exp_samples": [{"value": 1}],
    }


@pytest.mark.system
def test_psi_agrees_with_numpy(tmp_path: Path) -> None:
    """Of random bins on three processes, an hour's PSI and its noise floor are numpy's within one in a hundred."""
    tests = []
    for seed in range(6):
        labels = 'watchlist="w", indicator="i"'
        series, psi, floor = bin_series("indicator", labels, seed)
        of_feature, feature_psi, feature_floor = bin_series("feature", f'{labels}, feature="sae/1 max"', seed + 100)
        indicator = [
            close("watchlist_indicator:scopewatch_indicator_psi:ratio1h", psi),
            close("watchlist_indicator:scopewatch_indicator_psi:ratio1d", psi),
            close("watchlist_indicator:scopewatch_indicator_psi_floor:ratio1h", floor),
        ]
        feature = [
            close("watchlist_indicator_feature:scopewatch_feature_psi:ratio1h", feature_psi),
            close("watchlist_indicator_feature:scopewatch_feature_psi_floor:ratio1h", feature_floor),
        ]
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": indicator})
        tests.append({"interval": "1m", "input_series": of_feature, "promql_expr_test": feature})
    run_tests(tmp_path, [MONITORING / "rules" / "drift.yaml"], *tests, evaluation_interval="10m")


def test_scaled_rules_differ_in_durations_alone() -> None:
    """Ranges, offsets and waiting times are a sixtieth, all of them, and nothing else is changed."""
    duration = re.compile(r"\b\d+(ms|[smhdw])\b(?=[\]\s),]|$)")
    for file in RULES:
        for group, shorter in zip(
            loaded(file)["groups"], scaled_rules.scaled(loaded(file), 1 / 60)["groups"], strict=True
        ):
            for rule, made in zip(group["rules"], shorter["rules"], strict=True):
                assert duration.sub("", rule["expr"]) == duration.sub("", made["expr"])
                assert {**rule, "expr": "", "for": ""} == {**made, "expr": "", "for": rule.get("for", "")} | {"for": ""}
                before, after = (
                    [milliseconds(found[0]) for found in duration.finditer(f"{one['expr']} {one.get('for', '')}")]
                    for one in (rule, made)
                )
                assert after == pytest.approx([ms / 60 for ms in before], abs=0.5)


def milliseconds(duration: str) -> int:
    units = {"w": 604800000, "d": 86400000, "h": 3600000, "m": 60000, "s": 1000, "ms": 1}
    found = re.fullmatch(r"(\d+)([a-z]+)", duration)
    assert found
    return int(found[1]) * units[found[2]]


@pytest.mark.system
def test_a_week_ago_goes_before_a_day_ago(tmp_path: Path) -> None:
    """Where a week is kept, the same hour a week ago decides, whatever was a day ago. Time runs 24 times as fast."""
    rule_file = next(file for file in scaled_rules.write(tmp_path / "rules", 1 / 24) if file.name == "input.yaml")
    # In samples, one in 30 s: an hour lasts 5 of them, a day 120, a week 840. Short texts are half of all, and nearly all
    # from a day before the week's end until two samples before that end.
    before, odd = 840 - 120 - 2, 120
    short = f"0+50x{before} {50 * before}+95x{odd} {50 * before + 95 * odd}+50x20"
    tokens = 'scopewatch_pair_tokens_%s{job="j", instance="a", segment="response"%s}'
    series = [
        {"series": tokens % ("bucket", ', le="64.0"'), "values": short},
        {"series": tokens % ("bucket", ', le="+Inf"'), "values": "0+100x900"},
        {"series": tokens % ("count", ""), "values": "0+100x900"},
    ]
    shift = "segment:scopewatch_pair_tokens_shift:ratio1h"
    looks_at = [
        {"expr": f"sum({shift} < bool 0.01)", "eval_time": "7h7m30s", "exp_samples": [{"value": 1}]},
        {"expr": f"sum({shift} > bool 0.4)", "eval_time": "6h30m", "exp_samples": [{"value": 1}]},
    ]
    test = {"interval": "30s", "input_series": series, "promql_expr_test": looks_at}
    run_tests(tmp_path, [rule_file], test, evaluation_interval="150s")


def test_the_page_lists_every_alert() -> None:
    """The table of docs/monitoring.md names each alert with its severity and how long it waits, the gravest first."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| ([^|]+) \|$", page, re.MULTILINE)
    severities = ["critical", "warning", "info"]
    expected = sorted((severities.index(rule["labels"]["severity"]), name) for name, rule in ALERTS.items())
    assert listed == [(name, name, severities[at], ALERTS[name].get("for", "at once")) for at, name in expected]


@pytest.mark.system
def test_the_scrape_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    """The first example is a configuration that promtool accepts, with a job that the rules find."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    file = tmp_path / "prometheus.yaml"
    file.write_text(example.replace("/etc/prometheus", str(tmp_path)), encoding="utf-8")
    promtool("check", "config", file)
    assert [job["job_name"] for job in yaml.safe_load(example)["scrape_configs"]] == ["scopewatch"]
