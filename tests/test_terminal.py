"""What is different on a terminal, what never is, and how shells complete commands."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scopewatch.cli import _parser, main
from scopewatch.cli.terminal import harmless

ESCAPE, BELL = "\x1b", "\x07"
HOSTILE = f"{ESCAPE}]0;pwned{BELL}[red]a[/red] \u202e"


def on_a_terminal(*command: object, **environ: str) -> str:
    """What the program shows on a terminal of 80 columns."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "scopewatch", *map(str, command)],
        stdin=child,
        stdout=child,
        stderr=child,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": ""} | environ,
    )
    os.close(child)
    shown = b""
    # The terminal is gone when the last process that had it is.
    with contextlib.suppress(OSError):
        while part := os.read(parent, 65536):
            shown += part
    process.wait(60)
    os.close(parent)
    return shown.decode().replace("\r\n", "\n")


def piped(*command: object, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "scopewatch", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environ,
    )


# Looks


def test_help_has_looks_on_a_terminal_and_nowhere_else() -> None:
    """A terminal gets colours; a pipe, a terminal without colours and a dumb one get the same letters without them."""
    command = ("token", "check", "--help")
    coloured = on_a_terminal(*command)
    plain = piped(*command, TERM="xterm-256color").stdout

    assert f"{ESCAPE}[" in coloured
    assert ESCAPE not in plain
    assert plain == on_a_terminal(*command, NO_COLOR="1") == on_a_terminal(*command, TERM="dumb")


def test_brackets_in_help_are_no_markup() -> None:
    """A default that comes from the environment is shown as it is, whatever brackets it holds."""
    shown = on_a_terminal("contrast", "--help", XDG_CACHE_HOME="/[bold]x[/bold]", COLUMNS="400")

    assert "/[bold]x[/bold]/scopewatch" in shown


def test_what_is_piped_imports_no_rich() -> None:
    """Whoever reads the output with a program does not wait for what only terminals need."""
    program = (
        "import sys, atexit; atexit.register(lambda: print('rich' in sys.modules)); "
        "from scopewatch.cli import main; main(['serve', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "False"


# Harm


def test_texts_of_files_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """A table shows what a config file says with escapes in place of control characters, and nothing as markup."""
    config = tmp_path / "config.toml"
    config.write_text('labels = "\\u001b]0;pwned\\u0007[red]a[/red] \\u202e"\n', encoding="utf-8")
    table = on_a_terminal("settings", "--changed", "--config", config, COLUMNS="300", NO_COLOR="1")

    assert "\\x1b]0;pwned\\x07[red]a[/red] \\u202e" in table
    assert not {BELL, "\u202e"} & set(table)


def test_messages_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """What is printed, and what is complained of, is as harmless; a pipe gets the text as it is."""
    config = tmp_path / HOSTILE.replace("/", "")
    config.write_text("max_labels = 3\n", encoding="utf-8")
    printed, complaint = ("settings", "--changed", "--json", "--config", config), ("settings", "--config", f"{config}2")
    shown = on_a_terminal(*printed) + on_a_terminal(*complaint)

    assert "pwned\\u0007[red]a[red] \\u202e:1: max_labels" in shown
    assert "\\x1b]0;pwned\\x07[red]a[red] \\u202e2: cannot be read" in shown
    assert not {ESCAPE, BELL, "\u202e"} & set(shown)
    assert "\u202e" in piped(*printed).stdout


@pytest.mark.parametrize("kept", ["a\tb\nc", "é 猫 🤷🏽‍♀️ »x«", "[bold]"])
def test_letters_stay_as_they_are(kept: str) -> None:
    """Only what steers is replaced."""
    assert harmless(kept) == kept


# What was meant


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("serv", "did you mean serve?"),
        ("watchlist chek a", "did you mean check?"),
        ("serve --max-tokns 5", "--max-tokns: did you mean --max-tokens?"),
        ("serve --Max-Tokens=5", "--Max-Tokens: did you mean --max-tokens?"),
        ("calibrate a --out b --indicater c", "--indicater: did you mean --indicator?"),
        ("calibrate a --out b --indicator c --kind featurs", "did you mean features?"),
    ],
)
def test_a_slip_is_answered_by_what_was_meant(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt command, flag or value ends with 2 and a line that says what was probably meant."""
    with pytest.raises(SystemExit) as left:
        main(command.split())

    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)


@pytest.mark.parametrize("command", ["fly", "serve --xyzzy-plugh 5", "score --response a --colour red"])
def test_nothing_is_guessed_where_nothing_is_near(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What resembles nothing is only refused."""
    with pytest.raises(SystemExit):
        main(command.split())

    assert "did you mean" not in capsys.readouterr().err


def test_a_value_is_no_misspelt_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Behind `--` and behind `=` stand values, of which nothing is said."""
    with pytest.raises(SystemExit):
        main(["score", "--prompt=--respons", "--", "--respons"])

    assert "did you mean" not in capsys.readouterr().err


# Completion


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What bash offers for the last of some words."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "pairs.jsonl").touch()
    (folder / "completion.bash").write_text(piped("completion", "bash").stdout, encoding="utf-8")
    ask = (
        'source ./completion.bash; [[ $(complete -p scopewatch) == *_shtab_scopewatch* ]] || exit 1; COMP_WORDS=("$@"); '
        'COMP_CWORD=$(($# - 1)); _shtab_scopewatch; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def complete(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", ask, "bash", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("scopewatch", "cali"), ["calibrate"]),
        (("scopewatch", "watchlist", "re"), ["replay", "reference"]),
        (("scopewatch", "serve", "--max-tok"), ["--max-tokens"]),
        (("scopewatch", "calibrate", "--kind", "pr"), ["probe"]),
        (("scopewatch", "calibrate", "--out", "pai"), ["pairs.jsonl"]),
        (("scopewatch", "serve", "--tls-cert", "pai"), ["pairs.jsonl"]),
        (("scopewatch", "scan", "pai"), ["pairs.jsonl"]),
    ],
)
def test_bash_completes(completed: Callable[..., list[str]], words: tuple[str, ...], offered: list[str]) -> None:
    """A real bash completes commands, actions, flags, values and files."""
    assert completed(*words) == offered


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script of every shell knows every command."""
    with pytest.raises(SystemExit):
        main(["completion", shell])
    script = capsys.readouterr().out

    assert all(command in script for command in _parser().commands)
