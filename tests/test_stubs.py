"""The committed stubs are what the compiler makes of the protos today."""

from pathlib import Path

import grpc_tools
import pytest
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = sorted(path.relative_to(ROOT / "protos").as_posix() for path in ROOT.glob("protos/scopewatch/**/*.proto"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which every proto was compiled."""
    out = tmp_path_factory.mktemp("stubs")
    includes = [ROOT / "protos", Path(grpc_tools.__path__[0]) / "_proto"]
    flags = [f"-I{include}" for include in includes] + [
        f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")
    ]
    assert protoc.main(["protoc", *flags, *PROTOS]) == 0
    return out


def test_regenerated_stubs_equal_the_committed_ones(generated: Path) -> None:
    """Compiling the protos again changes no committed file; if this fails, run `make stubs`."""
    made = {path.relative_to(generated): path.read_text(encoding="utf-8") for path in generated.rglob("*.py*")}

    assert len(made) == 3 * len(PROTOS)
    for path, expected in made.items():
        assert expected == (ROOT / "service" / path).read_text(encoding="utf-8")


def test_no_stub_is_left_over(generated: Path) -> None:
    """Every committed stub comes from a proto that still exists."""
    committed = {path.relative_to(ROOT / "service") for path in ROOT.glob("service/scopewatch/v1/*_pb2*")}

    assert committed == {path.relative_to(generated) for path in generated.rglob("*_pb2*")}
