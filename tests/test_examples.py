"""The examples for other languages do what their pages say, against a real server."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_tools import protoc

from conftest import House
from scopewatch.doors.grpc.service import SERVICE_NAME
from servers import ServerProcess, config, serving

ROOT = Path(__file__).parents[1]
NODE, CALL = ROOT / "examples/node", ROOT / "examples/descriptors/call.py"
INSTALL_S = 90
"""How long npm may take to install what the example needs, once for each state of its lock file."""


def run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example for Node.js needs, as its lock file has it; kept under build/."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (Debian packages nodejs, npm)")
    kept = ROOT / "build" / f"node-{hashlib.sha256((NODE / 'package-lock.json').read_bytes()).hexdigest()[:12]}"
    if not kept.exists():
        folder = tmp_path_factory.mktemp("node") / "made"
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, folder)
        install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
        try:
            done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            pytest.skip("npm could not install the example's packages in time")
        if done.returncode:
            assert "EUSAGE" not in done.stderr, "package-lock.json is not that of package.json"
            pytest.skip(f"npm could not install the example's packages: {done.stderr.splitlines()[:1]}")
        kept.parent.mkdir(exist_ok=True)
        partly = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.move(folder, partly)
        try:
            partly.rename(kept)
        except OSError:
            # Another run of the tests was first.
            shutil.rmtree(partly)
    return kept / "node_modules"


def test_the_lock_file_names_no_registry() -> None:
    """Packages come from whatever registry npm is set up for."""
    packages = json.loads((NODE / "package-lock.json").read_text("utf-8"))["packages"]
    assert len(packages) > 2
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name


def test_node_scores_a_pair(node_modules: Path, bundled: ServerProcess) -> None:
    """The example prints the verdict and each indicator, and of an empty response the field that is wrong."""
    done = run("node", NODE / "score.js", bundled.grpc_address, NODE_PATH=str(node_modules))
    assert done.returncode == 0, done.stdout + done.stderr
    verdict, *indicators, code, wrong = done.stdout.splitlines()
    assert verdict == "VERDICT_FLAG"
    assert any(line.startswith("speculation: ") for line in indicators)
    assert (code, wrong) == ("INVALID_ARGUMENT", "response: is empty; there is nothing to score")


def test_node_says_that_no_server_is_there(node_modules: Path) -> None:
    """Without a server the example fails and says with which status."""
    done = run("node", NODE / "score.js", "127.0.0.1:1", NODE_PATH=str(node_modules))
    assert (done.returncode, done.stdout) == (1, "UNAVAILABLE\n")


def test_a_method_is_called_by_a_descriptor_set(bundled: ServerProcess, tmp_path: Path) -> None:
    """The commands of the example's page make a descriptor set of the protos alone, and score a pair by it."""
    page = (CALL.parent / "README.md").read_text("utf-8")
    compiled = re.search(r"^protoc (.*) --descriptor_set_out=(\S+) (\S+)$", page, re.MULTILINE)
    asked = re.search(r"(\S+/Score) '(.*)'$", page, re.MULTILINE)
    assert compiled
    assert asked
    image = tmp_path / compiled[2]
    flags = [flag.replace("protos", str(ROOT / "protos")) for flag in compiled[1].split()]
    well_known = f"-I{files('grpc_tools') / '_proto'}"
    assert protoc.main(["protoc", *flags, well_known, f"--descriptor_set_out={image}", compiled[3]]) == 0
    done = run(sys.executable, CALL, "--descriptors", image, bundled.grpc_address, asked[1], asked[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "VERDICT_FLAG"
    refused = run(sys.executable, CALL, "--descriptors", image, bundled.grpc_address, asked[1], '{"response": " "}')
    assert (refused.returncode, refused.stderr) == (
        1,
        "INVALID_ARGUMENT: response: is empty; there is nothing to score\n",
    )


async def test_a_method_is_called_by_what_the_server_says_of_itself(house: House) -> None:
    """Without a descriptor set the server is asked, by reflection v1; it describes the protocol that it is asked by too."""

    def both(address: str) -> tuple["subprocess.CompletedProcess[str]", list[bytes]]:
        with grpc.insecure_channel(address) as channel:
            ask = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            symbol = "grpc.reflection.v1.ServerReflection"
            (reply,) = ask(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)]), timeout=60)
        return run(sys.executable, CALL, address, f"{SERVICE_NAME}/GetInfo"), list(
            reply.file_descriptor_response.file_descriptor_proto
        )

    async with serving(config(house.watchlist, reflection=True)) as server:
        done, files_of_reflection = await asyncio.to_thread(both, server.grpc_address)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["watchlists"][0]["name"] == "test"
    assert b"grpc.reflection.v1" in files_of_reflection[0]
    assert b"v1alpha" not in files_of_reflection[0]
