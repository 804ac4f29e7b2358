"""The hub's client against a small real hub: what is fetched, resumed, refused, and used without a network."""

import hashlib
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import Hub, Repo, hub_server, use
from scopewatch.errors import HubError
from scopewatch.hub import listing, recorded_sha256, snapshot

GEMMA = "google/gemma-2-2b"
SCOPE = "google/gemma-scope-2b-pt-res"
READER_FILES = {
    "config.json": b'{"model_type": "gemma2"}',
    "model-00001-of-00002.safetensors": b"first" * 1000,
    "model-00002-of-00002.safetensors": b"second" * 1000,
    "tokenizer.json": b"{}",
    "README.md": b"a card",
    "original/pytorch.bin": b"pickled",
}
PATTERNS = ["*.json", "*.safetensors"]
WANTED = sorted(name for name in READER_FILES if name.endswith(("json", "safetensors")))
LARGE = bytes(range(256)) * (12 << 12)
"""12 MiB: more than one of the client's 10 MiB chunks, of which only whole ones are kept when a transfer breaks off."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    scope = {f"layer_{n}/width_16k/average_l0_{n}/params.npz": b"%d" % n for n in (20, 71)} | {"large.npz": LARGE}
    with hub_server({GEMMA: READER_FILES, SCOPE: scope}) as running:
        use(running, tmp_path / "hub", monkeypatch)
        yield running


def fetch(repo: str = GEMMA, revision: str = "", patterns: list[str] = PATTERNS, allow: bool = True) -> Path:
    return snapshot(repo, revision=revision, patterns=patterns, allow_download=allow).folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_matches_is_fetched(hub: Hub, tmp_path: Path) -> None:
    """The matching files arrive byte for byte, no other file is asked for, and the revision is the commit's hash."""
    found = snapshot(GEMMA, revision="", patterns=PATTERNS, allow_download=True)

    assert {name: READER_FILES[name] for name in WANTED} == files(found.folder)
    assert sorted(hub.asked("GET", GEMMA)) == WANTED
    assert hub.repos[GEMMA].commit == found.revision == found.folder.name
    assert tmp_path in found.folder.parents


def test_a_broken_transfer_goes_on_where_it_stopped(hub: Hub) -> None:
    """When the connection breaks, the rest is asked for with a Range header, and the file is byte-equal."""
    hub.cut_after = 11 << 20
    folder = fetch(SCOPE, patterns=["large.npz"])

    gets = [request for request in hub.requests if request.method == "GET" and request.path.endswith("large.npz")]
    assert [None, f"bytes={10 << 20}-"] == [get.headers.get("range") for get in gets]
    assert (folder / "large.npz").read_bytes() == LARGE


def test_a_transfer_that_fails_leaves_nothing_that_looks_whole(hub: Hub, tmp_path: Path) -> None:
    """After a failure the file is not there, and the next attempt gets it whole."""
    hub.cut_after, hub.status_after_cut = 11 << 20, 503
    with pytest.raises(HubError, match=r"google/gemma-scope-2b-pt-res: the hub answers 503; try again"):
        fetch(SCOPE, patterns=["large.npz"])
    left = [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    hub.status = 0

    assert left == []
    assert (fetch(SCOPE, patterns=["large.npz"]) / "large.npz").read_bytes() == LARGE


@pytest.mark.parametrize("revision", ["", "main", "v1", "commit"])
def test_what_was_fetched_is_used_without_a_network(hub: Hub, revision: str) -> None:
    """The same call without downloads gives the same files for every spelling of the revision, and asks nobody."""
    repo = hub.repos[GEMMA]
    repo.revisions = ("main", "v1")
    revision = repo.commit if revision == "commit" else revision
    online = fetch(revision=revision)
    hub.requests.clear()

    assert online == fetch(revision=revision, allow=False)
    assert hub.requests == []


@pytest.mark.parametrize("before", [[], ["config.json"], ["model-00001*"]], ids=["nothing", "config", "half"])
def test_nothing_is_fetched_unasked(hub: Hub, before: list[str]) -> None:
    """What the cache lacks, wholly or in part, is refused without a request; the mend is named."""
    for pattern in before:
        fetch(patterns=[pattern])
    hub.requests.clear()

    with pytest.raises(HubError, match=rf"^{GEMMA}: not in the local Hugging Face cache; set allow_download or .*"):
        fetch(allow=False)
    assert hub.requests == []


def test_a_branch_is_looked_up_a_commit_is_not(hub: Hub) -> None:
    """A branch gives its newest commit while downloads are allowed, the last one seen otherwise; a commit is final."""
    repo = hub.repos[GEMMA]
    old = fetch().name
    repo.commit, repo.files = "d" * 40, READER_FILES | {"config.json": b"{}"}
    offline, newest = fetch(allow=False).name, fetch().name
    hub.requests.clear()
    pinned = fetch(revision=old).name

    assert [old, old, "d" * 40] == [pinned, offline, newest]
    assert hub.requests == []


TOKEN = "hf_of_someone_who_accepted"
MISTAKES = {  # repository, revision, HF_TOKEN, what is told
    "repository": ("google/gemma-2-2", "", "", r"google/gemma-2-2: the hub has no such repository.*check the name"),
    "revision": (GEMMA, "v9", "", rf"{GEMMA} \(revision v9\): the hub has no such revision; name a branch"),
    "commit": (GEMMA, "e" * 40, "", rf"{GEMMA} \(revision e{{40}}\): the hub has no such revision"),
    "gated": ("meta/gated", "", "", r"meta/gated: is gated; accept its licence at http\S+/meta/gated and set HF_TOKEN"),
    "not accepted": ("meta/gated", "", "hf_other", r"meta/gated: is gated; accept its licence .*HF_TOKEN"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_the_hub_refuses_is_told_in_a_line(hub: Hub, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """Each refusal of the hub is one line that names the repository and the mend."""
    repo, revision, token, told = MISTAKES[mistake]
    hub.repos["meta/gated"] = Repo(READER_FILES, token=TOKEN)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(HubError, match=f"^{told}") as caught:
        fetch(repo, revision)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, r"access is refused \(401\)"), (403, r"access is refused \(403\)"), (500, "the hub answers 500")],
)
def test_a_hub_that_answers_nothing_else_is_told(hub: Hub, status: int, told: str) -> None:
    """A status without the hub's own error code is still told in one line."""
    hub.status = status

    with pytest.raises(HubError, match=f"^{GEMMA}: .*{told}"):
        fetch()


def test_the_hubs_own_offline_switch_wins(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE set nothing is asked, even if downloads are allowed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(HubError, match=f"^{GEMMA}: not in the local Hugging Face cache, and HF_HUB_OFFLINE is set"):
        fetch()
    assert hub.requests == []


@pytest.mark.parametrize("status", [0, 500], ids=["gone", "broken"])
def test_without_the_hub_what_is_local_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """With downloads allowed and no hub, local files are used, and what is not local is refused."""
    with hub_server({GEMMA: READER_FILES, SCOPE: {"large.npz": LARGE}}) as hub:
        use(hub, tmp_path / "hub", monkeypatch)
        online, listed = fetch(), listing(GEMMA, revision="", folder="", allow_download=True)
        hub.status = status
        if status:
            assert online == fetch()
    if not status:
        assert online == fetch()
        assert listed == listing(GEMMA, revision="", folder="", allow_download=True)
    with pytest.raises(HubError, match=rf"^{SCOPE}: cannot be downloaded: .*check the connection to http"):
        fetch(SCOPE)
    with pytest.raises(HubError, match=rf"^{SCOPE}: cannot be downloaded: .*check the connection to http"):
        listing(SCOPE, revision="", folder="", allow_download=True)


@pytest.mark.parametrize(
    ("repo", "revision", "pattern"),
    [
        ("../../etc", "", "x"),
        ("google/../etc", "", "x"),
        ("/etc/passwd", "", "x"),
        ("a/b/c", "", "x"),
        ("a--b/c", "", "x"),
        ("spaces are not/allowed", "", "x"),
        ("", "", "x"),
        (GEMMA, "../../../etc", "x"),
        (GEMMA, "/etc", "x"),
        (GEMMA, "main/..", "x"),
        (GEMMA, "*", "x"),
        (GEMMA, "", "../x"),
        (GEMMA, "", "/etc/passwd"),
        (GEMMA, "", "a//b"),
        (GEMMA, "", "a\\..\\b"),
        (GEMMA, "", "a/../../b"),
        (GEMMA, "", "params[0].npz"),
        (GEMMA, "", "x\n"),
    ],
)
def test_names_cannot_leave_their_folder(hub: Hub, repo: str, revision: str, pattern: str) -> None:
    """A repository, revision or path that is none is refused before anything is asked or opened."""
    for allow in (False, True):
        with pytest.raises(HubError) as caught:
            snapshot(repo, revision=revision, patterns=["config.json", pattern], allow_download=allow)
        assert str(caught.value).startswith(repo)
        with pytest.raises(HubError):
            listing(repo, revision=revision, folder=pattern, allow_download=allow)
    assert hub.requests == []


def test_a_listing_is_the_same_online_and_offline(hub: Hub) -> None:
    """Files and folders of a folder, sorted; offline from what the cache knows of the whole repository."""
    folders = {"": ["large.npz", "layer_20", "layer_71"], "layer_20/width_16k": ["average_l0_20"], "layer_2": []}
    online = {name: listing(SCOPE, revision="", folder=name, allow_download=True) for name in folders}
    with pytest.raises(HubError, match=r"not in the local Hugging Face cache; set allow_download"):
        listing(SCOPE, revision="", folder="", allow_download=False)
    fetch(SCOPE, patterns=["*_20/params.npz"])
    hub.requests.clear()
    offline = {name: listing(SCOPE, revision="", folder=name, allow_download=False) for name in folders}

    assert folders == online
    assert folders == offline
    assert hub.requests == []


@pytest.mark.parametrize(
    ("repo", "revision", "told"), [("no/such", "", "has no such repository"), (SCOPE, "v9", "has no such revision")]
)
def test_a_listing_that_cannot_be_had_is_told(hub: Hub, repo: str, revision: str, told: str) -> None:
    """A listing of what is not there is refused as the files are."""
    with pytest.raises(HubError, match=f"^{repo}.*: the hub {told}"):
        listing(repo, revision=revision, folder="", allow_download=True)


def test_the_recorded_digest_shows_damage(hub: Hub, tmp_path: Path) -> None:
    """The hub's SHA-256 of a file is known afterwards, so that bytes changed on the way do not pass for the file."""
    sound = fetch(SCOPE, patterns=["large.npz"]) / "large.npz"
    hub.spoil = lambda content: content.replace(b"71", b"17")
    spoiled = fetch(SCOPE, patterns=["*_71/params.npz"]) / "layer_71/width_16k/average_l0_71/params.npz"
    plain = tmp_path / "params.npz"
    plain.write_bytes(b"71")

    assert hashlib.sha256(sound.read_bytes()).hexdigest() == recorded_sha256(sound)
    assert spoiled.read_bytes() == b"17"
    assert hashlib.sha256(b"71").hexdigest() == recorded_sha256(spoiled)
    assert recorded_sha256(plain) == ""


def test_a_small_file_has_no_recorded_digest(hub: Hub) -> None:
    """Files that the hub keeps in git have another hash for an etag, which is not taken for a SHA-256."""
    hub.repos[GEMMA].in_git = ("config.json",)
    folder = fetch()

    assert recorded_sha256(folder / "config.json") == ""
    assert recorded_sha256(folder / "tokenizer.json") == hashlib.sha256(b"{}").hexdigest()


def test_a_cache_that_cannot_be_written_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where HF_HOME cannot hold files, the error says where and why."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))

    with pytest.raises(HubError, match=rf"^{GEMMA}: the cache {tmp_path}/file/hub cannot be used \(Not a directory\)"):
        fetch()


CLIENT = """
import resource, sys
from scopewatch import hub
from scopewatch.errors import HubError
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    print(hub.snapshot(sys.argv[1], revision="", patterns=["*.npz", "*.json"], allow_download=True).folder)
except HubError as error:
    print(error)
"""


def client(hub: Hub, home: Path, *arguments: str, terminal: bool = False) -> tuple[str, str]:
    """What another process, set up by its environment, prints, and what it shows as progress."""
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        environment.pop(name, None)
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(theirs, (24, 120))
    command = [sys.executable, "-c", CLIENT, *arguments]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=120, check=True
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError:  # A terminal says so that nobody has it open any more.
        pass
    os.close(ours)
    return done.stdout.strip(), shown.decode()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_the_environment_says_where_and_who(hub: Hub, tmp_path: Path, terminal: bool) -> None:
    """HF_HOME, HF_ENDPOINT and HF_TOKEN are honoured, and progress is shown on a terminal only."""
    hub.repos["meta/gated"] = Repo(READER_FILES, token=TOKEN)
    folder, shown = client(hub, tmp_path / "home", "meta/gated", terminal=terminal)

    assert Path(folder).is_relative_to(tmp_path / "home" / "hub")
    assert files(Path(folder)).keys() == {"config.json", "tokenizer.json"}
    assert {f"Bearer {TOKEN}"} == {r.headers["authorization"] for r in hub.requests if "resolve" in r.path}
    assert terminal == ("2/2" in shown)
    assert terminal or shown == ""


def test_a_full_disk_is_told(hub: Hub, tmp_path: Path) -> None:
    """When there is no room for a file, the error names the cache and the mend."""
    told, _ = client(hub, tmp_path, SCOPE, str(1 << 20))

    assert f"{SCOPE}: no room in {tmp_path}/hub (File too large); make some, or point HF_HOME elsewhere" == told
