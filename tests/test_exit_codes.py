"""The exit codes that docs/cli.md promises are those that commands have."""

import json
import re
from pathlib import Path

import pytest

from conftest import House
from scopewatch.capacity.curve import shipped_curves
from scopewatch.cli import _parser, main

PAGE = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
PROMISED = {
    name: [int(code) for code in codes.split()]
    for name, codes in re.findall(r"^\| `([a-z ]+)` \| ([0-9 ]+) \|", PAGE, re.MULTILINE)
}
CASES = {
    ("audit verify", 2): "audit verify NOWHERE",
    ("activations", 2): "activations --reader NOWHERE --sae SAE --features 1 --response maybe",
    ("bench", 2): "bench --watchlist NOWHERE",
    ("calibrate", 1): "calibrate BROKEN --indicator new --out OUT --watchlist LIST --sae mid",
    ("calibrate", 2): "calibrate NOWHERE --indicator new --out OUT",
    ("canary check", 2): "canary check NOWHERE",
    ("canary record", 2): "canary record --out NOWHERE",
    ("completion", 0): "completion bash",
    ("completion", 2): "completion fish",
    ("contrast", 1): "contrast BROKEN BROKEN --watchlist LIST --sae mid",
    ("contrast", 2): "contrast NOWHERE DATA",
    ("demo", 2): "demo --reader-dir",
    ("evaluate", 1): "evaluate BROKEN --indicator alpha --watchlist LIST",
    ("evaluate", 2): "evaluate NOWHERE --indicator alpha --watchlist LIST",
    ("explain", 2): "explain --row 1",
    ("features", 2): "features search word --labels NOWHERE",
    ("models check", 2): "models check NOWHERE",
    ("models fetch", 2): "models fetch NOWHERE",
    ("plan", 0): f"plan --pairs-per-s 1 --tokens 100 --device {shipped_curves()[0]}",
    ("plan", 2): "plan --pairs-per-s 1 --tokens 10 --measured NOWHERE",
    ("reader", 0): "reader list --reader-dir FOLDER",
    ("reader", 2): "reader get nothing",
    ("sae inspect", 0): "sae inspect SAE",
    ("sae inspect", 2): "sae inspect NOWHERE",
    ("sae pack", 0): "sae pack SAE --features 1 --out PACK",
    ("sae pack", 2): "sae pack NOWHERE --features 1 --out OUT",
    ("sae verify", 2): "sae verify --reader NOWHERE --sae SAE",
    ("scan", 2): "scan NOWHERE --out RESULT --watchlist LIST",
    ("score", 1): "score --address 127.0.0.1:1 --timeout-s 0.2 --response maybe",
    ("score", 2): "score",
    ("serve", 2): "serve --max-tokens 1",
    ("settings", 0): "settings",
    ("settings", 2): "settings --max-tokens 1",
    ("token", 0): "token new",
    ("token", 2): "token check NOWHERE",
    ("watch", 1): "watch --address 127.0.0.1:1",
    ("watch", 2): "watch --token-file NOWHERE",
    ("watchlist check", 0): "watchlist check LIST",
    ("watchlist check", 1): "watchlist check LIST --strict",
    ("watchlist check", 2): "watchlist check NOWHERE",
    ("watchlist diff", 0): "watchlist diff LIST LIST",
    ("watchlist diff", 1): "watchlist diff LIST OTHER",
    ("watchlist diff", 2): "watchlist diff LIST NOWHERE",
    ("watchlist measure", 2): "watchlist measure NOWHERE DATA",
    ("watchlist reference", 2): "watchlist reference NOWHERE DATA",
    ("watchlist replay", 1): "watchlist replay LIST LIST BROKEN",
    ("watchlist replay", 2): "watchlist replay LIST LIST NOWHERE",
}
"""What ends each command with each code, where that costs no pass of the reader."""
ELSEWHERE = {
    # By the tests of the command itself.
    **dict.fromkeys((("audit verify", 0), ("audit verify", 1)), "test_audit.py"),
    **dict.fromkeys((("calibrate", 0), ("calibrate", 3)), "test_calibrate.py"),
    **dict.fromkeys((("contrast", 0), ("contrast", 3)), "test_contrast.py"),
    **dict.fromkeys((("evaluate", 0), ("evaluate", 3)), "test_cli.py"),
    **dict.fromkeys((("scan", 0), ("scan", 1), ("scan", 3)), "test_scan.py"),
    **dict.fromkeys((("explain", 0), ("explain", 1)), "test_explain_cli.py"),
    **dict.fromkeys((("watchlist replay", 0), ("watchlist replay", 3)), "test_replay.py"),
    **dict.fromkeys((("watchlist reference", 0), ("watchlist reference", 3)), "test_reference.py"),
    **dict.fromkeys((("sae verify", 0), ("sae verify", 1)), "test_verify.py"),
    **dict.fromkeys((("canary check", 0), ("canary check", 1), ("canary record", 0)), "test_recorded_canaries.py"),
    ("watchlist measure", 0): "test_also_measured.py",
    ("serve", 0): "test_draining.py",
    ("serve", 1): "test_stuck_engine.py",
    ("activations", 0): "test_cli.py",
    ("bench", 0): "test_capacity.py",
    ("demo", 0): "test_bundled.py",
    ("features", 0): "test_labels.py",
    **dict.fromkeys((("models check", 0), ("models fetch", 0)), "test_models.py"),
    ("score", 0): "test_cli.py",
    ("watch", 0): "test_watch_page.py",
}
READER_FAILS = {
    (name, 1) for name in ("activations", "bench", "canary record", "demo", "watchlist measure", "watchlist reference")
}
"""Codes that a command has where the reader fails, as `serve` does; not shown for each."""


@pytest.fixture(scope="module")
def places(house: House, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the words in capitals of the commands stand for."""
    folder = tmp_path_factory.mktemp("codes")
    rows = [json.dumps({"response": f"b {row}", "label": row % 2}) for row in range(8)]
    (folder / "data.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "broken.jsonl").write_text("{\n" * 3, encoding="utf-8")
    text = house.watchlist.read_text(encoding="utf-8")
    other = house.folder / "other.yaml"
    other.write_text(text.replace("threshold: 1.0", "threshold: 2.0"), encoding="utf-8")
    names = {"DATA": "data.jsonl", "BROKEN": "broken.jsonl", "OUT": "out.yaml", "RESULT": "out.jsonl"}
    return {name: str(folder / file) for name, file in names.items()} | {
        "PACK": str(folder / "pack.safetensors"),
        "NOWHERE": str(folder / "no" / "thing.jsonl"),
        "READER": str(house.reader),
        "SAE": str(house.saes["mid"]),
        "LIST": str(house.watchlist),
        "OTHER": str(other),
        "FOLDER": str(folder),
    }


@pytest.mark.usefixtures("logging_as_it_was")
@pytest.mark.parametrize(("case", "command"), CASES.items(), ids=[f"{name} {code}" for name, code in CASES])
def test_a_command_ends_with_the_code_that_is_promised(
    case: tuple[str, int], command: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command ends as the page says, without a traceback."""
    name, code = case
    with pytest.raises(SystemExit) as left:
        main([places.get(word, word) for word in command.split()])
    error = capsys.readouterr().err

    assert left.value.code == code, error
    assert "Traceback" not in error
    assert command.startswith(name)


def test_every_promise_is_shown() -> None:
    """The table has every command, and each code of it is shown here, by the tests that are named, or of the reader's."""
    promised = {(name, code) for name, codes in PROMISED.items() for code in codes}

    assert {name.split()[0] for name in PROMISED} == set(_parser().commands)
    assert promised == {*CASES, *ELSEWHERE, *READER_FAILS}
    assert all((Path(__file__).parent / file).is_file() for file in ELSEWHERE.values())
