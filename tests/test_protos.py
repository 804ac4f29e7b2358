"""The protos by themselves: other languages compile them with nothing beside, and no change breaks who uses them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "protos"
Change = Callable[[str], str]
BREAKING: dict[str, Change] = {
    "a field is taken out": lambda text: text.replace("  bool include_evidence = 7;\n", ""),
    "a field has another number": lambda text: text.replace(
        "bool include_evidence = 7;", "bool include_evidence = 11;"
    ),
    "a field has another type": lambda text: text.replace("bool include_evidence = 7;", "string include_evidence = 7;"),
    "a field has another name": lambda text: text.replace("bool include_evidence = 7;", "bool with_evidence = 7;"),
    "a method is taken out": lambda text: re.sub(r"  rpc GetInfo\(.*?;\n", "", text),
    "a value has another number": lambda text: text.replace("SEVERITY_HIGH = 4;", "SEVERITY_HIGH = 5;"),
    "a message is taken out": lambda text: text.replace("message Turn {", "message Message {").replace(
        "repeated Turn ", "repeated Message "
    ),
}


def buf(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs buf on a folder, as `make lint` does on the repository's."""
    program = Path(sys.executable).with_name("buf")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the protos with buf's settings."""
    shutil.copytree(PROTOS, tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def test_protos_need_nothing_beside_them(tmp_path: Path) -> None:
    """`protoc -I protos` compiles all of them; what protoc itself brings, google/protobuf, is all that it adds."""
    every = sorted(file.relative_to(PROTOS).as_posix() for file in PROTOS.rglob("*.proto"))
    image = tmp_path / "image.binpb"
    # The folder in which grpcio-tools keeps what protoc brings.
    flags = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}", "--include_imports", f"--descriptor_set_out={image}"]
    assert protoc.main(["protoc", *flags, *every]) == 0
    compiled = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    assert {file.name for file in compiled if not file.name.startswith("google/protobuf/")} == set(every)


def test_protos_of_google_are_those_of_its_package() -> None:
    """What stands in protos/google is what googleapis-common-protos brings, which the stubs are made for."""
    for file in (PROTOS / "google/rpc").iterdir():
        assert file.read_text("utf-8") == (files("google.rpc") / file.name).read_text("utf-8"), (
            f"copy {file.name} again"
        )


def test_what_callers_of_the_last_release_send_still_means_the_same() -> None:
    """`make proto-breaking` is green, and so are the rules of style."""
    for arguments in (["breaking", "--against", "protos/released.binpb"], ["lint"]):
        found = buf(ROOT, *arguments)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("what", BREAKING)
def test_a_change_that_breaks_callers_is_found(copy: Path, what: str) -> None:
    """Each change that old callers would stumble over is named."""
    file = copy / "protos/scopewatch/v1/monitor.proto"
    text = file.read_text("utf-8")
    changed = BREAKING[what](text)
    assert changed != text
    file.write_text(changed, "utf-8")
    found = buf(copy, "breaking", "--against", "protos/released.binpb")
    assert found.returncode == 100, found.stderr
    assert "scopewatch/v1/monitor.proto" in found.stdout


def test_a_field_may_be_added(copy: Path) -> None:
    """What is new breaks nobody, if it has a comment."""
    file = copy / "protos/scopewatch/v1/monitor.proto"
    text = file.read_text("utf-8")
    added = "  // Whether it is urgent.\n  bool urgent = 99;\n"
    file.write_text(text.replace("message ScoreRequest {\n", f"message ScoreRequest {{\n{added}"), "utf-8")
    assert buf(copy, "breaking", "--against", "protos/released.binpb").returncode == 0
    assert buf(copy, "lint").returncode == 0
    file.write_text(file.read_text("utf-8").replace("  // Whether it is urgent.\n", ""), "utf-8")
    assert "urgent" in buf(copy, "lint").stdout
