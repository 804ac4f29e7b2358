"""Two distributions of one package: the client's, small and alone, and the server's, which depends on it."""

import ast
import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scopewatch
from servers import ServerProcess

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "service/scopewatch"
MOST_NEEDS = 5
MOST_BYTES = 15_000_000
"""What the client and all that it needs may take beside gRPC's own library, which alone takes more."""
CALL = """
import importlib, json, pkgutil, sys
from scopewatch.client import Client

assert "pydantic" not in sys.modules
with Client(sys.argv[1], timeout_s=60) as client:
    reply = client.score(prompt="What is it?", response="It might perhaps be gout.")
    explanation = client.explain(prompt="What is it?", response="It might perhaps be gout.")
import scopewatch
modules = [found.name for found in pkgutil.walk_packages(scopewatch.__path__, "scopewatch.")]
for module in modules:
    importlib.import_module(module)
missing = [name for name in ("numpy", "torch", "scopewatch.app", "scopewatch.types") if importlib.util.find_spec(name)]
print(json.dumps([len(reply.indicators), explanation.verdict, missing, modules]))
"""


def project(folder: Path) -> dict[str, Any]:
    """The project table of a folder's pyproject.toml."""
    return dict(tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"])


def packed(folder: Path) -> set[str]:
    """The files of the package that a folder's wheel is made of."""
    script = """
import sys
from hatchling.builders.wheel import WheelBuilder
for file in WheelBuilder(sys.argv[1]).recurse_included_files():
    print(file.distribution_path)
"""
    found = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    return set(found.stdout.splitlines())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel, made of its source distribution as an index would serve it."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(out), "--target"]
    subprocess.run([*build, "sdist"], cwd=ROOT / "client", capture_output=True, check=True)
    (source,) = out.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "tarfile", "--extract", source, out], check=True)
    unpacked = source.with_name(source.name.removesuffix(".tar.gz"))
    subprocess.run([*build, "wheel"], cwd=unpacked, capture_output=True, check=True)
    (built,) = out.glob("*.whl")
    return built


def needs_of(name: str) -> list[str]:
    """What a distribution needs, itself included, and what that needs in turn, by installed metadata."""
    found, waiting = list[str](), [name]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.append(name)
            needs = map(Requirement, distribution(name).requires or ())
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the client's wheel and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for need in {
        name for line in project(ROOT / "client")["dependencies"] for name in needs_of(Requirement(line).name)
    }:
        for file in distribution(need).files or ():
            place = site / file
            if ".." not in file.parts and file.suffix != ".pyc":
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(str(file.locate())).resolve())
    return folder


def test_every_file_of_the_package_is_in_one_of_the_two_wheels(wheel: Path) -> None:
    """No file is in both, so that taking one off leaves the other whole, and none is in neither."""
    client, server = packed(ROOT / "client"), packed(ROOT)
    tree = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert client & server == set()
    assert client | server == {str(file.relative_to(PACKAGE.parent)) for file in tree} | {"scopewatch/v1/monitor.proto"}
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert built == client


def test_what_the_server_leaves_out_is_what_the_client_takes() -> None:
    """Both lists name the same files, in the same order."""
    settings = [tomllib.loads((folder / "pyproject.toml").read_text("utf-8")) for folder in (ROOT, ROOT / "client")]
    server, client = [one["tool"]["hatch"]["build"] for one in settings]
    assert [f"/service/{name}" for name in client["only-include"]] == server["targets"]["wheel"]["exclude"]


def test_both_distributions_have_one_version_and_one_licence() -> None:
    """The server's depends on the client's of its own version, and the package says the same."""
    server, client = project(ROOT), project(ROOT / "client")
    assert server["version"] == client["version"] == scopewatch.__version__
    assert f"scopewatch-client=={client['version']}" in server["dependencies"]
    assert (ROOT / "client/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_client_needs_little() -> None:
    """It has at most five dependencies, each no looser than the server's, and they take at most 15 MB beside gRPC's."""
    needs = project(ROOT / "client")["dependencies"]
    assert len(needs) <= MOST_NEEDS
    assert set(needs) <= set(project(ROOT)["dependencies"])
    everything = {name for line in needs for name in needs_of(Requirement(line).name)} - {"grpcio"}
    files = [Path(str(file.locate())) for name in everything for file in distribution(name).files or ()]
    assert sum(file.stat().st_size for file in files if file.suffix != ".pyc" and file.exists()) <= MOST_BYTES


def test_every_import_of_the_client_is_declared() -> None:
    """Its files import the standard library, each other, the distributions that it names, and OpenTelemetry where the
    caller's program has imported it."""
    declared = {"google", "grpc", "grpc_status", "opentelemetry", "pydantic", "scopewatch"}
    found = set[str]()
    for name in packed(ROOT / "client"):
        if name.endswith(".py") and not name.endswith(("_pb2.py", "_pb2_grpc.py")):
            for node in ast.walk(ast.parse((ROOT / "service" / name).read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
                elif isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
    assert found - declared <= sys.stdlib_module_names


def test_the_client_alone_calls_a_server(alone: Path, bundled: ServerProcess) -> None:
    """With its wheel and its dependencies alone, all of its modules are imported, and a pair is scored and explained;
    an explanation's classes are imported only for it."""
    command = [alone / "bin/python", "-I", "-c", CALL, bundled.grpc_address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=alone)
    assert done.returncode == 0, done.stderr
    indicators, verdict, missing, modules = json.loads(done.stdout)
    assert indicators > 0
    assert verdict in {"pass", "flag"}
    assert missing == []
    assert {"scopewatch.client.clients", "scopewatch.contract.status", "scopewatch.v1.monitor_pb2"} <= set(modules)
