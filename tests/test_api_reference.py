"""docs/api.md is made of the protos of today, and says all that is in them."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from google.rpc import code_pb2, error_details_pb2

from scopewatch import errors
from scopewatch.contract.status import to_status
from scopewatch.v1 import monitor_pb2 as pb

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    found = importlib.util.spec_from_file_location("api_reference", ROOT / "tools/api_reference.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/api.md").read_text("utf-8")


def test_the_page_is_up_to_date(tool: ModuleType, page: str) -> None:
    """Making it again changes nothing; if this fails, run `make api-reference`."""
    assert tool.page() == page


def test_every_method_message_field_and_value_is_told(page: str) -> None:
    """Each has its section or its row, with a meaning."""
    sections = dict(part.split("\n", 1) for part in page.replace("\n## ", "\n### ").split("\n### ")[1:])
    file = pb.DESCRIPTOR
    for method in file.services_by_name["MonitorService"].methods:
        assert f"(#{method.input_type.name.lower()}) → [`{method.output_type.name}`]" in sections[method.name]
    for message in file.message_types_by_name.values():
        rows = sections[message.name].splitlines()
        for field in message.fields:
            (row,) = [row for row in rows if row.startswith(f"| `{field.name}` | {field.number} |")]
            assert row.endswith(". |")
            if field.message_type and not field.message_type.GetOptions().map_entry:
                assert field.message_type.name in row
            assert ("| list of " in row) == (field.is_repeated and "| map of " not in row)
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            assert f"| `{value.name}` | {value.number} | " in sections[enum.name]


def test_every_error_is_told_with_its_status(page: str) -> None:
    """Each error that a call can end with stands there with the status and the reason that go over the wire."""
    made = [
        errors.InvalidRequest(errors.FieldViolation("prompt", "is odd")),
        errors.UnknownWatchlist(errors.FieldViolation("watchlist", "is not loaded")),
        errors.Overloaded("full", retry_after_s=1.0),
        errors.SetupError("broken"),
        RuntimeError("unforeseen"),
    ]
    simple = ["Unauthenticated", "NotAllowed", "DeadlineExpired", "NotReady", "NotKept", "EngineError", "EngineDied"]
    made += [getattr(errors, name)("said") for name in simple]
    assert {type(one) for one in made} >= {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.ScopewatchError)
        and kind is not errors.ScopewatchError
        and not (issubclass(kind, errors.SetupError) and kind is not errors.SetupError)
    }, "an error is missing from this test"
    for error in made:
        status = to_status(error)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert f"| `{code_pb2.Code.Name(status.code)}` | `{info.reason}` | " in page


def test_links_lead_somewhere(page: str) -> None:
    """Every link within the page has its heading, and every other its file."""
    headings = {line.lstrip("# ").lower() for line in page.splitlines() if line.startswith("#")}
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (ROOT / "docs" / target).exists()
