"""The user's guide: every command of it runs as it stands, in the order of the page."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from plain_words import WORDS
from scopewatch.cli import main
from scopewatch.watch.watchlist import load_watchlist
from servers import ServerProcess

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "using.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python|toml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:50051"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the guide is followed, with a list of words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def servers() -> Iterator[list[ServerProcess]]:
    """The servers that the guide starts."""
    running: list[ServerProcess] = []
    yield running
    for server in running:
        assert server.stop() == 0


def command(line: str, servers: list[ServerProcess]) -> None:
    """Runs a command of the guide, which must end with 0; a server goes on, on a free port."""
    program, *arguments = shlex.split(line)
    assert program == "scopewatch"
    if arguments[0] == "serve":
        servers.append(ServerProcess(*arguments[1:]))
        return
    if servers:
        arguments = [servers[0].grpc_address if word == ADDRESS else word for word in arguments]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0, line


@pytest.mark.usefixtures("logging_as_it_was")
def test_the_guide_is_true(folder: Path, servers: list[ServerProcess], capsys: pytest.CaptureFixture[str]) -> None:
    """Followed from the top, it makes a watchlist, reports, an explanation, scores here and by a server."""
    told = []
    for kind, text in BLOCKS:
        if kind == "toml":
            (folder / "scopewatch.toml").write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(text.replace(ADDRESS, servers[0].grpc_address) if servers else text, {})
        else:
            for line in text.strip().splitlines():
                command(line, servers)
        told.append(capsys.readouterr().out)
    hedging, chosen = load_watchlist(folder / "watchlist.yaml").indicators
    notebook = next(out for (_, text), out in zip(BLOCKS, told, strict=True) if "scopewatch.open" in text)

    assert hedging.card is not None
    assert chosen.card is not None
    assert max(chosen.card.measurements[0].fpr_upper, hedging.card.measurements[0].fpr_upper) <= 0.1
    assert "res/1906 points the other way" in "".join(told)
    assert {str(feature.key) for feature in chosen.features} == {"res/9", "res/1906"}
    assert any("Leaky data" in out for out in told)
    assert "<Verdict.FLAG" in notebook
    assert "<Verdict.PASS" in notebook
    assert all((folder / name).is_file() for name in ("report.html", "why.html", "scored.jsonl"))
    assert any("FLAG" in out and "«" in out for out in told[-2:])
    assert "2 [('hedging'" in told[-1]


def test_pages_that_it_names_are_there() -> None:
    """Every link of the guide, and of the page of commands, leads to a page."""
    for page in (PAGE, (DOCS / "cli.md").read_text(encoding="utf-8")):
        assert all((DOCS / link).is_file() for link in re.findall(r"\]\(([^)#]+)\)", page))
