"""Dashboards are as their generator makes them, and what they, the rules and the runbooks ask for is there."""

import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from scopewatch.metrics import Metrics
from scopewatch.v1 import monitor_pb2, monitor_pb2_grpc
from servers import ServerProcess
from test_rules import RULES, promtool, rules

ROOT = Path(__file__).parents[1]
DASHBOARDS = sorted((ROOT / "deploy" / "monitoring" / "dashboards").glob("*.json"))
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
PAGES = [*RUNBOOKS, ROOT / "docs" / "monitoring.md"]
TARGET = {"job", "instance", "pod", "node", "namespace"}
"""Labels that Prometheus gives to what it scrapes."""
SELECTOR = re.compile(
    r"\b((?:[a-z_]+:[a-z_]+:[a-z0-9_]+)|(?:scopewatch|grpc_server|process)_\w+|up|ALERTS)\b(?!\()(?:\{([^}]*)\})?"
)
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$watchlist": ".*", "$indicator": ".*", "$instance": ".*"}


@cache
def dashboards() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in DASHBOARDS}


def panels() -> list[tuple[str, dict[str, Any]]]:
    return [(name, panel) for name, board in dashboards().items() for panel in board["panels"]]


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, panel in panels():
        for target in panel["targets"]:
            yield f"{name}: {panel['title']}", target


def of_pages() -> Iterator[tuple[str, str]]:
    """PromQL in blocks of the runbooks and of the page on monitoring."""
    for page in PAGES:
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for expression in re.split(r"\n(?=\S)", block.strip()):
                yield page.name, expression


def expressions() -> list[tuple[str, str]]:
    """All PromQL there is, with where it stands; variables of dashboards are given values."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    found += [(where, target["expr"]) for where, target in targets()]
    found += of_pages()
    for name, value in VARIABLES.items():
        found = [(where, expression.replace(name, value)) for where, expression in found]
    return found


@pytest.fixture(scope="module")
def exported(bundled: ServerProcess) -> dict[str, set[str]]:
    """The labels of every series that a real server shows, and of those that it will show once there is one."""
    with grpc.insecure_channel(bundled.grpc_address) as channel:
        monitor_pb2_grpc.MonitorServiceStub(channel).Score(monitor_pb2.ScoreRequest(response="It may rain."))
    with urllib.request.urlopen(f"http://{bundled.metrics_address}/metrics", timeout=30) as page:
        text = page.read().decode()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    declared = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    registry = CollectorRegistry()
    Metrics(registry)
    for collector, names in registry._collector_to_names.items():
        for name in names:
            if name in declared | {f"{one}_{part}" for one in declared for part in ("bucket", "sum", "count")}:
                more = {"le"} if name.endswith("_bucket") else set()
                labels.setdefault(name, set()).update(more, getattr(collector, "_labelnames", ()))
    return labels


def test_dashboards_are_as_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make dashboards` would change nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "dashboards"))
    import write  # the folder is in the path now

    made = write.documents()
    for name in ("write", "panels", "overview", "indicator", "service", "drift"):
        sys.modules.pop(name)
    assert {file.stem: file.read_text(encoding="utf-8") for file in DASHBOARDS} == made


def test_dashboards_can_be_read() -> None:
    """Ids are unique, panels lie beside each other, and each says what it shows, in which unit, from the chosen source."""
    assert {board["uid"] for board in dashboards().values()} == {f"scopewatch-{name}" for name in dashboards()}
    for board in dashboards().values():
        assert board["templating"]["list"][0]["type"] == "datasource"
        assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"]) > 8
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["type"] in {"table", "heatmap"} or panel["fieldConfig"]["defaults"]["unit"]
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells


@pytest.mark.system
def test_every_expression_is_promql(tmp_path: Path) -> None:
    """promtool parses the expressions of dashboards and pages."""
    wrapped = [{"record": f"a:b:c{index}", "expr": expression} for index, (_, expression) in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": wrapped}]}), encoding="utf-8")
    assert f"{len(wrapped)} rules found" in promtool("check", "rules", "--lint=none", file)
    assert len(wrapped) > 150


def known(exported: dict[str, set[str]]) -> dict[str, set[str]]:
    """The labels of everything that can be asked for: what is exported, what rules record, and Prometheus' own."""
    everything = set().union(*exported.values()) | TARGET
    recorded = {rule["record"]: everything | set(rule.get("labels", ())) for rule in rules() if "record" in rule}
    of_alerts = everything | {"alertname", "alertstate", "severity"}
    return {name: labels | TARGET for name, labels in exported.items()} | recorded | {"up": TARGET, "ALERTS": of_alerts}


def test_what_is_asked_for_is_exported(exported: dict[str, set[str]]) -> None:
    """Every metric that a rule, a dashboard or a page names is shown by a real server, with the labels that are named."""
    there = known(exported)
    problems = []
    for where, expression in expressions():
        for name, matchers in SELECTOR.findall(expression):
            if name not in there:
                problems.append(f"{where}: nothing exports {name}")
            elif strange := set(MATCHER.findall(matchers)) - there[name]:
                problems.append(f"{where}: {name} has no label {', '.join(strange)}")
    assert problems == []


def test_groupings_and_legends_name_labels_that_exist(exported: dict[str, set[str]]) -> None:
    labels = set().union(*known(exported).values())
    named = {
        label.strip()
        for _, expression in expressions()
        for found in GROUPING.findall(expression)
        for label in found.split(",")
    }
    legends = {
        label for _, target in targets() for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
    }
    assert (named - {""}) - labels == set()
    assert legends - labels == set()
    assert len(legends) > 10


def test_a_name_that_nothing_exports_is_noticed(exported: dict[str, set[str]]) -> None:
    """The walk sees metrics and labels wherever they stand."""
    expression = (
        'sum(rate(scopewatch_no_such_total{job="a", no_label=~"b"}[5m])) / up > grpc_server_started_total{x="y"}'
    )
    assert SELECTOR.findall(expression) == [
        ("scopewatch_no_such_total", 'job="a", no_label=~"b"'), ("up", ""), ("grpc_server_started_total", 'x="y"'),
    ]  # fmt: skip
    assert "scopewatch_no_such_total" not in known(exported)


def test_every_exported_metric_is_used_or_documented(exported: dict[str, set[str]]) -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    used = {name for _, expression in expressions() for name, _ in SELECTOR.findall(expression)}
    families = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in exported
        if name.startswith("scopewatch_") and not name.endswith("_created")
    }
    counters = {name for name in families if f"{name}_total" in families}
    left_over = {
        name
        for name in families - counters
        if f"`{name}" not in documented
        and not any(one in used for one in (name, *(f"{name}_{part}" for part in ("bucket", "sum", "count"))))
    }
    assert left_over == set()
    assert len(families) > 50


def test_rules_are_all_there() -> None:
    assert [file.stem for file in RULES] == ["drift", "input", "service", "slo", "traffic", "watchlists"]
