"""Files are written whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from scopewatch.errors import DataError
from scopewatch.files import atomic_write, unwritable, write_text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """While it is written there is nothing under its name, and afterwards nothing beside it."""
    file = tmp_path / "new.bin"
    with atomic_write(file) as part:
        part.write_bytes(b"all of it")
        assert not file.exists()
        assert part.parent == tmp_path

    assert file.read_bytes() == b"all of it"
    assert names(tmp_path) == ["new.bin"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    """A file that is replaced is not written over: who has opened it reads it to its end."""
    file = tmp_path / "page.html"
    file.write_text("the old page")
    with file.open() as stream:
        write_text(file, "new")
        assert stream.read() == "the old page"

    assert file.read_text() == "new"


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Whatever the block raises is raised, and no part of the new file stays."""
    file = tmp_path / "kept.txt"
    file.write_text("old")

    def write() -> None:
        with atomic_write(file) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write()

    assert file.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


def test_a_rehearsal_writes_nothing(tmp_path: Path) -> None:
    """It finds out whether there is room and permission, and leaves what there is."""
    file = tmp_path / "kept.txt"
    file.write_text("old")
    with atomic_write(file, rehearse=True) as part:
        part.write_text("new")

    assert file.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


def test_links_are_followed_and_modes_kept(tmp_path: Path) -> None:
    """A link still leads to the file, which keeps the permissions that its owner gave it."""
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")

    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    """A file made here is as readable as one that is opened for writing."""
    write_text(tmp_path / "ours.txt", "text")
    (tmp_path / "plain.txt").write_text("text")

    assert (tmp_path / "ours.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_text_is_utf_8_and_goes_into_pipes(tmp_path: Path) -> None:
    """A pipe or device is written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "Grüße\n")
    reader.join(10)

    assert read == ["Grüße\n".encode()]
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [("absent/page.html", "No such file or directory"), ("file/page.html", "Not a directory"), ("", "Is a directory")],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, place: str, reason: str) -> None:
    """The error names the file as it was given, not the part beside it."""
    (tmp_path / "file").write_text("")
    file = tmp_path / place

    with pytest.raises(DataError, match=rf"^{file}: cannot be written: {reason}$"):
        write_text(file, "text")
    assert names(tmp_path) == ["file"]


def test_the_sentence_has_a_reason_where_the_system_gives_none() -> None:
    """Errors that a library raises without a number still say something."""
    assert unwritable(Path("x"), OSError("no room for it")) == "x: cannot be written: no room for it"
