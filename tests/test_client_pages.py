"""The pages about the client: every example runs as it is printed, against real servers."""

import asyncio
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import Authority
from conftest import House, free_port
from scopewatch import errors
from scopewatch.contract import status
from scopewatch.doors.role_file import Role
from servers import ServerProcess, config, serving
from test_access import role_file, tls, token

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/client.md").read_text("utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)


def examples(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@contextlib.contextmanager
def printed() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        yield out


def test_examples_for_a_server_on_this_machine_run(bundled: ServerProcess) -> None:
    """One after another, as a reader of the page would type them, they print what the page says."""
    names: dict[str, object] = {}
    said: list[str] = []
    for example in examples(PAGE):
        if "scopewatch.example" in example:
            continue
        there = example.replace("localhost:50051", bundled.grpc_address).replace(
            "127.0.0.1:50051", bundled.grpc_address
        )
        with printed() as out:
            exec(there.replace("127.0.0.1:50052", f"127.0.0.1:{free_port()}"), names)
        said.append(out.getvalue())
    names["client"].close()  # type: ignore[attr-defined]
    scored, verdict, _, batch, explanation, many, refused, turns = said
    assert re.match(r"demo (True|False)\n", scored)
    assert "speculation" in scored
    assert "flagged" in scored
    assert verdict == "VERDICT_FLAG\n"
    assert batch.splitlines()[2] == "' ' response: is empty; there is nothing to score"
    assert explanation.strip()
    assert many == "8\n"
    assert refused == "watchlist no watchlist of this name is loaded; there are: demo\n"
    assert turns == "1\n"


async def test_the_example_with_a_token_runs(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS and with a token that a function reads, a server that knows its callers answers."""
    authority = Authority(tmp_path)
    (example,) = [one for one in examples(PAGE) if "scopewatch.example" in one]
    (tmp_path / "token").write_text(token(Role.SCORE) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    async with serving(
        config(house.watchlist, roles=str(role_file(tmp_path)), **tls(authority, mutual=False))
    ) as server:
        program = "from scopewatch.client import Client\n" + example + "secure.close()\n"
        with printed() as out:
            await asyncio.to_thread(exec, program.replace("scopewatch.example:50051", server.grpc_address), {})
    assert len(out.getvalue()) == 37


def test_the_example_of_the_distribution_runs(bundled: ServerProcess) -> None:
    """What an index shows of the client runs as it is printed."""
    (example,) = examples((ROOT / "client/README.md").read_text("utf-8"))
    with printed() as out:
        exec(example.replace("localhost:50051", bundled.grpc_address), {})
    assert re.search(r"^speculation \S+ flagged$", out.getvalue(), re.MULTILINE)


@pytest.mark.parametrize(
    "page", ["docs/client.md", "docs/api.md", "examples/node/README.md", "examples/descriptors/README.md"]
)
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    """Every file that a page links to is there, with the heading that the link names."""
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        name, _, heading = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        if heading:
            found = [
                line.lstrip("# ").lower().replace(" ", "-")
                for line in file.read_text("utf-8").splitlines()
                if line[:1] == "#"
            ]
            assert heading in found, target


def test_the_table_of_errors_is_whole() -> None:
    """Each error that the page names exists, and each that a call can end with is named."""
    (section,) = [one for one in SECTIONS if one.startswith("Errors")]
    named = {
        name
        for row in section.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    made = {errors.InvalidRequest, errors.Overloaded, errors.NotReady, errors.SetupError, errors.ConfigError}
    assert named == {kind.__name__ for kind in made | set(status._SIMPLE.values())}
