"""The README, and the pages of settings and metrics, say what is true."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from scopewatch.config import CONFIG, SECRET_FILES, Config
from scopewatch.metrics import Metrics
from servers import ServerProcess

ROOT = Path(__file__).parents[1]
README, SETTINGS, METRICS = (
    (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/settings.md", "docs/metrics.md")
)


def shown_default(name: str) -> str:
    default = Config.model_fields[name].default
    if name == "watchlist":
        return "`the bundled one`"
    return f"`{default}`" if str(default) and default != () else "empty"


@pytest.mark.parametrize("name", Config.model_fields)
def test_every_setting_is_in_the_table(name: str) -> None:
    """Each setting stands in the configuration table with its flag, variable, default and meaning."""
    row = (
        f"| `--{name.replace('_', '-')}` | `SCOPEWATCH_{name.upper()}` | {shown_default(name)} "
        f"| {Config.model_fields[name].description} |"
    )

    assert row in SETTINGS


def test_the_table_has_no_setting_that_does_not_exist() -> None:
    """A variable that is named is a setting, or the config file."""
    named = {name.lower() for name in re.findall(r"SCOPEWATCH_([A-Z_]+)", README + SETTINGS)}

    assert set() == named - {*Config.model_fields, *SECRET_FILES, CONFIG}


def test_every_metric_is_in_the_table_and_the_other_way_round() -> None:
    """The metrics table and the exported metrics are the same set."""
    registry = CollectorRegistry()
    Metrics(registry)
    exported = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in registry.collect()
        if family.name.startswith(("scopewatch_", "grpc_server_"))
    }
    rows = "\n".join(line.rsplit("|", 2)[0] for line in METRICS.splitlines() if line.startswith("|"))

    assert exported == set(re.findall(r"`((?:scopewatch|grpc_server)_[a-z_]+)`", rows))


def test_the_python_snippet_runs(bundled: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """The client snippet runs as printed and flags its speculative answer."""
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    exec(snippet.replace("127.0.0.1:50051", bundled.grpc_address), {})
    printed = capsys.readouterr().out

    assert "VERDICT_FLAG" in printed
    assert "speculation" in printed
