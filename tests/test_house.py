"""The house keeps its order: who may import what, and who may read the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLANTED = {
    # A module, and what it must not import.
    "watch/indicators.py": ["prometheus_client", "huggingface_hub"],
    "tracing/tracing.py": ["grpc", "scopewatch.doors.limits"],
    "watch/cards.py": ["redis", "sqlite3"],
    "server_process.py": ["torch", "grpc_health"],
    "hub.py": ["sqlite3"],
    "known_readers/find.py": ["gguf", "torch", "scopewatch.reader.find"],
    "audit/ledger.py": ["grpc", "scopewatch.doors.auth"],
    "doors/limits.py": ["h11", "grpc", "google.protobuf", "scopewatch.v1.monitor_pb2"],
    "pipeline/scoring.py": ["transformers", "scopewatch.pipeline.cache"],
    "pipeline/monitor.py": ["redis", "torch"],
    "app/server.py": ["grpc", "h11", "prometheus_client", "opentelemetry"],
    "engine/runner.py": ["safetensors", "yaml", "triton"],
    "cli/serve.py": ["grpc_status", "matplotlib", "scipy", "rich"],
    "cli/parser.py": ["rich_argparse"],
    "report/tables.py": ["rich", "shtab"],
    "calibration/evaluate.py": ["pyarrow", "jinja2"],
    "lifecycle/scan.py": ["grpc_reflection", "sklearn", "scopewatch.calibration.evaluate"],
    "types.py": ["scopewatch.config", "ruamel.yaml"],
    # The client's own distribution has none of the server's rooms.
    "client/requests.py": ["scopewatch.types", "scopewatch.config"],
    "contract/status.py": ["scopewatch.identity", "scopewatch.client.requests"],
    "addresses.py": ["scopewatch.verdicts"],
    "sae/pack.py": ["torch", "scopewatch.engine.runner"],
    "reader/text/tokeniser.py": ["regex"],
    "report/page.py": ["threadpoolctl"],
}


def copy_of_the_house(folder: Path) -> Path:
    weights = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npz", "*.gz")
    shutil.copytree(ROOT / "service", folder / "service", ignore=weights)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def checked(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(folder / "service"), "COLUMNS": "1000"}
    tool = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [tool, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the linter of imports says of a copy of the package in which every import of PLANTED stands."""
    folder = copy_of_the_house(tmp_path_factory.mktemp("house"))
    for module, planted in PLANTED.items():
        file = folder / "service/scopewatch" / module
        lines = "".join(f"\n\ndef _planted_{number}():\n    import {name}\n" for number, name in enumerate(planted))
        file.write_text(file.read_text(encoding="utf-8") + lines, encoding="utf-8")
    found = checked(folder, "lint-imports", "--no-cache")
    assert found.returncode == 1, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in PLANTED for name in PLANTED[module]])
def test_a_forbidden_import_is_found(complaints: str, module: str, name: str) -> None:
    """Every library has the rooms that may import it and no others, and imports between rooms point down."""
    importer = "scopewatch." + module.removesuffix(".py").replace("/", ".")
    imported = name if name.startswith("scopewatch") else name.partition(".")[0]
    assert f"{importer} -> {imported} (" in complaints


def test_the_house_as_it_stands_has_no_forbidden_import() -> None:
    """`make lint` is green."""
    found = checked(ROOT, "lint-imports", "--no-cache")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("line", ['os.environ["A"]', 'os.getenv("A")', 'environ.get("A")'])
def test_only_config_reads_the_environment(tmp_path: Path, line: str) -> None:
    """Whoever else looks at an environment variable is found by the linter."""
    for room in ("doors", "config"):
        (tmp_path / "service/scopewatch" / room).mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = f'"""Planted."""\n\nimport os\nfrom os import environ\n\nFOUND = {line}\n'
    for module in ("doors/limits.py", "config/environment.py"):
        (tmp_path / "service/scopewatch" / module).write_text(source, encoding="utf-8")
    found = checked(tmp_path, "ruff", "check", "--no-cache", "--select", "TID251", "--output-format", "concise", ".")
    assert "service/scopewatch/doors/limits.py" in found.stdout
    assert "config/environment.py" not in found.stdout
