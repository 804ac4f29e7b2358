"""`scopewatch models`: weights come from a small real hub, are held against their SHA-256, and are what a server then loads."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import House, watchlist_document
from hub_server import Hub, Repo, hub_server, use
from scopewatch.app.load import load
from scopewatch.cli import main
from scopewatch.config import load_config

READER, SAES = "google/gemma-2-2b-it", "google/gemma-scope-2b-pt-res"
MID, LATE = "layer_1/width_64/average_l0_20", "layer_2/width_64/average_l0_20"
Capture = pytest.CaptureFixture[str]


def held(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def hub(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_as_it_was: None) -> Iterator[Hub]:
    """A hub with the reader and the SAEs of the house, others beside them."""
    saes = held(house.folder / "sae" / "gemma-scope-2b-pt-res")
    reader = Repo(held(house.reader), in_git=("config.json",))
    with hub_server(
        {READER: reader, SAES: saes | {"layer_3/width_64/average_l0_20/params.npz": b"of nobody"}}
    ) as running:
        use(running, tmp_path / "models" / "hub", monkeypatch)
        yield running


@pytest.fixture
def watchlist(tmp_path: Path) -> Path:
    """The watchlist of the house, by hub ids."""
    saes = {"mid": {"id": f"{SAES}/{MID}"}, "late": {"id": f"{SAES}/{LATE}"}}
    file = tmp_path / "watchlist.yaml"
    file.write_text(yaml.safe_dump(watchlist_document(reader={"id": READER}, saes=saes), sort_keys=False))
    return file


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["models", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def cached(hub: Hub, repo: str, file: str, folder: Path) -> Path:
    """Where a file of a repository lies in the cache."""
    name = f"models--{repo.replace('/', '--')}"
    return folder / "models" / "hub" / name / "snapshots" / hub.repos[repo].commit / file


def test_everything_a_server_needs_is_fetched_and_nothing_else(
    hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture
) -> None:
    """After one fetch a server loads the watchlist without a network; SAEs that nobody watches are not fetched."""
    code, out, _ = run(capsys, "fetch", watchlist)

    assert 0 == code
    wanted = {f"{MID}/params.npz", f"{LATE}/params.npz"}
    assert wanted == set(hub.asked("GET", SAES))
    listed = dict(reversed(line.split("  ")) for line in out.splitlines())
    files = {
        **{
            (READER, f): content
            for f, content in hub.repos[READER].files.items()
            if f.endswith(("json", "safetensors", "jinja"))
        }
    }
    files |= {(SAES, f): hub.repos[SAES].files[f] for f in wanted}
    cache = tmp_path / "models" / "hub"
    expected = {
        cached(hub, repo, file, tmp_path).relative_to(cache).as_posix(): hashlib.sha256(content).hexdigest()
        for (repo, file), content in files.items()
    }
    assert expected == listed
    hub.requests.clear()
    loaded = load(load_config({"watchlist": (watchlist,)}, environ={}))
    assert {("mid", SAES), ("late", SAES)} == {(sae.name, sae.repo) for sae in loaded.engine.identity.saes}
    assert [] == hub.requests


def test_what_it_prints_is_what_sha256sum_checks(hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture) -> None:
    """The list beside the weights is the one that was printed, and coreutils find every file as it says."""
    _, out, _ = run(capsys, "fetch", watchlist)

    record = tmp_path / "models" / "hub" / "models.sha256"
    assert out == record.read_text()
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", record.name],
        cwd=record.parent,
        capture_output=True,
        check=False,
    )
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


def test_a_second_fetch_downloads_nothing_and_check_needs_no_hub(hub: Hub, watchlist: Path, capsys: Capture) -> None:
    """What is there is not had again, and the check asks nobody."""
    _, first, _ = run(capsys, "fetch", watchlist)
    hub.requests.clear()
    assert (0, first) == run(capsys, "fetch", watchlist)[:2]
    assert [] == [*hub.asked("GET", READER), *hub.asked("GET", SAES)]
    hub.requests.clear()
    files = len(first.splitlines())
    assert (0, f"{files} files, each as it was recorded\n", "") == run(capsys, "check", watchlist)
    assert [] == hub.requests


def test_watchlists_are_fetched_one_after_another(hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture) -> None:
    """What is recorded of one stays when another is fetched into the same cache."""
    other = tmp_path / "other.yaml"
    feature = [{"name": "one", "features": [{"feature": "late/0"}], "threshold": 0.0}]
    saes = {"late": {"id": f"{SAES}/{LATE}"}}
    document = {"version": 1, "name": "other", "reader": {"id": READER}, "saes": saes, "indicators": feature}
    other.write_text(yaml.safe_dump(document))
    run(capsys, "fetch", watchlist)
    run(capsys, "fetch", other)
    assert [0, 0] == [run(capsys, "check", file)[0] for file in (watchlist, other)]


def test_what_is_whole_stays_for_the_next_try(hub: Hub, watchlist: Path, capsys: Capture) -> None:
    """The hub refuses the SAEs; when it does not any more, the reader is not had again."""
    hub.repos[SAES].token = "secret"
    code, out, err = run(capsys, "fetch", watchlist)
    assert (2, "") == (code, out)
    assert "set HF_TOKEN to a token of that account" in err
    assert "model.safetensors" in hub.asked("GET", READER)
    hub.repos[SAES].token = ""
    hub.requests.clear()
    assert 0 == run(capsys, "fetch", watchlist)[0]
    assert ([], 2) == (hub.asked("GET", READER), len(hub.asked("GET", SAES)))


def test_a_damaged_file_is_told_by_check_and_mended_by_fetch(
    hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture
) -> None:
    """One changed byte of one file is found, its path named, and the file alone fetched again."""
    run(capsys, "fetch", watchlist)
    file = cached(hub, SAES, f"{MID}/params.npz", tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, err = run(capsys, "check", watchlist)
    assert 2 == code
    assert (
        f"{MID}/params.npz: its SHA-256 is not {hashlib.sha256(content).hexdigest()}; run scopewatch models fetch"
        in err
    )
    hub.requests.clear()
    assert 0 == run(capsys, "fetch", watchlist)[0]
    assert ([], [f"{MID}/params.npz"]) == (hub.asked("GET", READER), hub.asked("GET", SAES))
    assert content == file.read_bytes()


def test_what_the_hub_sends_must_be_what_is_pinned(hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture) -> None:
    """Pinned digests win over the hub: another file is refused and does not stay, though the hub calls it right."""
    _, out, _ = run(capsys, "fetch", watchlist)
    sums = tmp_path / "models.sha256"
    sums.write_text("# of the release\n" + out)
    assert 0 == run(capsys, "check", watchlist, "--sums", sums)[0]
    for line in out.splitlines():
        (tmp_path / "models" / "hub" / line.split("  ")[1]).unlink()
    hub.repos[SAES].files[f"{LATE}/params.npz"] = b"something else"
    code, _, err = run(capsys, "fetch", watchlist, "--sums", sums)
    assert 2 == code
    assert f"{LATE}/params.npz: its SHA-256 is not" in err
    assert "what the hub sends is something else" in err
    assert not cached(hub, SAES, f"{LATE}/params.npz", tmp_path).exists()


def test_a_file_that_is_spoilt_on_the_way_is_refused(hub: Hub, watchlist: Path, capsys: Capture) -> None:
    """Without pins it is the hub's own SHA-256 of large files that they are held against."""
    hub.spoil = lambda content: bytes(len(content)) if len(content) > 10_000 else content
    code, out, err = run(capsys, "fetch", watchlist)
    assert (2, "") == (code, out)
    assert "its SHA-256 is not" in err


@pytest.mark.parametrize(
    ("sums", "told"),
    [
        ("", "no digest of it is pinned; add its line"),
        ("not a digest\n", "models.sha256:1: expected a SHA-256, two spaces and a path"),
        ("{0}  a\n{1}  a\n", "models.sha256:2: a has another digest further up"),
    ],
)
def test_sums_that_do_not_fit_are_named(
    hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture, *, sums: str, told: str
) -> None:
    """A list of digests that lacks a file, or is none, stops the fetch with the line and the mend."""
    file = tmp_path / "models.sha256"
    file.write_text(sums.format("0" * 64, "1" * 64))
    code, _, err = run(capsys, "fetch", watchlist, "--sums", file)
    assert 2 == code
    assert told in err


def test_check_wants_a_record(hub: Hub, watchlist: Path, tmp_path: Path, capsys: Capture) -> None:
    """Weights of which nothing says what they have to be do not pass, and neither do those that are not there."""
    assert "not in the local Hugging Face cache" in run(capsys, "check", watchlist)[2]
    run(capsys, "fetch", watchlist)
    (tmp_path / "models" / "hub" / "models.sha256").unlink()
    code, _, err = run(capsys, "check", watchlist)
    assert 2 == code
    assert "nothing says what it has to be; run: scopewatch models fetch" in err


def test_weights_that_lie_in_folders_are_left_alone(hub: Hub, house: House, capsys: Capture) -> None:
    """A watchlist that names paths asks the hub for nothing."""
    assert (0, "") == run(capsys, "fetch", house.watchlist)[:2]
    assert (0, "0 files, each as it was recorded\n", "") == run(capsys, "check", house.watchlist)
    assert [] == hub.requests
