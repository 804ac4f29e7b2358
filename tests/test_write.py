"""What writing an indicator into a watchlist changes, and what it leaves alone."""

import difflib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scopewatch.errors import DataError, WatchlistError
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.splice import write_indicator
from scopewatch.watch.watchlist import Watchlist, load_watchlist

STARTERS = sorted((Path(__file__).parents[1] / "deploy" / "watchlists").glob("*.yaml"))
READER = ReaderSource(id="google/gemma-2-2b")
OURS = """\
# Ours; ask Mia before changing.
version: 1
name: clinic
reader: {id: google/gemma-2-2b}   # the base model
saes:
    res:   {path: sae/params.npz}  # from the first run
    other: {path: "sae/other.npz"}
indicators:
  # The one that pages somebody.
  - name: first
    label: 'Hedged, or guessed'
    features: [{feature: res/1}, {feature: res/2, label: "a # in words"}]
    threshold: 0.50   # by eye
    severity: high

  # The one that nobody reads.
  - name: second
    features:
      - feature: other/7
        citation: &paper 'A title that is long enough that it would be broken into lines by whoever writes it anew,
          in which lines it stands here as well'
      - {feature: other/8, citation: *paper}
    threshold: 1.0e-3
    card: uncalibrated
# The end.
"""
ONE_LINE = OURS[: OURS.index("indicators:")] + (
    "indicators: [{name: first, label: 'kept', features: [{feature: res/1}], threshold: 0.5}]\n"
)


def indicator(name: str = "new", sae: str = "res", **fields: object) -> Indicator:
    return Indicator.model_validate({"name": name, "features": [{"feature": f"{sae}/5"}], "threshold": 1e-06, **fields})


def res(folder: Path) -> dict[str, SaeSource]:
    return {"res": SaeSource(path=str(folder / "sae" / "params.npz"))}


def ours(folder: Path, text: str = OURS) -> Path:
    file = folder / "ours.yaml"
    file.write_bytes(text.encode())
    return file


def changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that went and lines that came."""
    lines = list(difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True)))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


def left_over(folder: Path) -> Sequence[str]:
    return [file.name for file in folder.iterdir() if file.suffix == ".part"]


class TestAddition:
    @pytest.mark.parametrize("starter", STARTERS, ids=lambda file: file.stem)
    def test_nothing_else_of_a_file_changes(self, starter: Path, tmp_path: Path) -> None:
        """Of people's own watchlists every line stays, letter by letter; the indicator's lines come in one place."""
        file = tmp_path / starter.name
        shutil.copy(starter, file)
        there = load_watchlist(file)
        sae = next(iter(there.saes))
        written = write_indicator(file, indicator(sae=sae), there.reader, {}, "unused")
        went, came = changed(starter.read_text(), file.read_text())
        assert went == []
        assert len(came) == 4
        assert written.indicators == (*there.indicators, indicator(sae=sae))

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_indents_line_ends_and_comments_stay(self, tmp_path: Path, end: str) -> None:
        """A new indicator and a new SAE are indented as the file is, and its line ends are kept."""
        file = ours(tmp_path, OURS.replace("\n", end))
        saes = {"third": SaeSource(path=str(tmp_path / "third.npz"))}
        write_indicator(file, indicator(sae="third"), READER, saes, "unused")
        went, came = changed(OURS.replace("\n", end), file.read_bytes().decode())
        assert went == []
        assert [line.removesuffix(end) for line in came] == [
            "    third: {path: third.npz}",
            "  - name: new",
            "    features:",
            "    - {feature: third/5}",
            "    threshold: 1.0e-06",
        ]

    @pytest.mark.parametrize(
        ("saes", "expected"),
        [
            ("", "saes:\n  more: {path: more.npz}\n"),
            ("saes: {}\n", "saes: {more: {path: more.npz}}\n"),
            ("saes: {a: {path: a.npz}}\n", "saes: {a: {path: a.npz}, more: {path: more.npz}}\n"),
        ],
    )
    def test_an_sae_is_added_to_any_layout(self, tmp_path: Path, saes: str, expected: str) -> None:
        """SAEs may be missing, empty, in one line or in many."""
        head = "version: 1\nname: x\nreader: {id: google/gemma-2-2b}\n"
        tail = "indicators:\n- {name: first, features: [{feature: gemma-2-2b/1-res/2}], threshold: 0}"
        file = ours(tmp_path, head + saes + tail)
        write_indicator(file, indicator(sae="more"), READER, {"more": SaeSource(path=str(tmp_path / "more.npz"))}, "x")
        assert expected in file.read_text()
        assert [each.name for each in load_watchlist(file).indicators] == ["first", "new"]

    def test_a_list_in_one_line_is_written_anew(self, tmp_path: Path) -> None:
        """Indicators in brackets are kept, and comments and quotes with them."""
        file = ours(tmp_path, ONE_LINE)
        write_indicator(file, indicator(), READER, res(tmp_path), "unused")
        assert [each.name for each in load_watchlist(file).indicators] == ["first", "new"]
        assert "# Ours; ask Mia before changing." in file.read_text()
        assert "'kept'" in file.read_text()

    @pytest.mark.parametrize("word", ["no", "on", "True", "null", "Yes", "OFF"])
    @pytest.mark.parametrize("layout", ["new file", "spliced", "written anew"])
    def test_words_that_yaml_takes_for_something_else_stay_words(self, tmp_path: Path, word: str, layout: str) -> None:
        """An indicator, an SAE, a label and a watchlist may be called `no` or `null`, as any other name."""
        made = indicator(word, sae=word, label=word)
        file = tmp_path / "new.yaml"
        if layout != "new file":
            file = ours(tmp_path, OURS if layout == "spliced" else ONE_LINE)
        saes = {word: SaeSource(path=str(tmp_path / "sae"))}
        written = write_indicator(file, made, READER, saes, word)

        assert written.indicators[-1] == made == load_watchlist(file).indicators[-1]
        assert word in written.saes
        assert layout != "new file" or written.name == word

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        label=st.sampled_from(
            [
                "yes",
                "1e3",
                "0777",
                "0o17",
                "1_000",
                "1:30",
                "2026-11-01",
                "=",
                "<<",
                "~",
                "y",
                "null",
                "0x1F",
                ".5",
                "'1'",
                "-",
            ]
        )
        | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20),
        threshold=st.floats(allow_nan=False, allow_infinity=False),
        layout=st.sampled_from([None, OURS, ONE_LINE, "\ufeff" + OURS]),
    )
    @example(label="1e3", threshold=1e-06, layout=OURS)
    @example(label="1e3", threshold=1e16, layout=None)
    @example(label="so?", threshold=0.0, layout=ONE_LINE)
    def test_what_is_written_is_what_was_meant(
        self, tmp_path: Path, label: str, threshold: float, layout: str | None
    ) -> None:
        """Whatever an indicator is labelled and wherever its threshold lies, the file that is written says so."""
        file = tmp_path / "written.yaml"
        file.unlink(missing_ok=True)
        if layout:
            file.write_bytes(layout.encode())
        made = indicator(label=label, threshold=threshold)
        assert write_indicator(file, made, READER, res(tmp_path), "clinic").indicators[-1] == made
        assert load_watchlist(file).indicators[-1] == made


class TestReplacement:
    @pytest.mark.parametrize(("name", "stays"), [("first", "# The one that nobody reads."), ("second", "# The end.")])
    def test_only_the_indicator_of_that_name_gives_way(self, tmp_path: Path, name: str, stays: str) -> None:
        """What stands before it and after it stays, letter by letter."""
        file = ours(tmp_path)
        write_indicator(file, indicator(name), READER, res(tmp_path), "unused")
        start = OURS.index(f"- name: {name}")
        end = OURS.index("\n\n  # The one that") + 1 if name == "first" else OURS.index(stays)
        text = file.read_text()
        assert text.startswith(OURS[:start])
        assert text.endswith(OURS[end:])
        assert {each.name for each in load_watchlist(file).indicators} == {"first", "second"}

    def test_what_others_refer_to_does_not_go(self, tmp_path: Path) -> None:
        """An anchor of the one that gives way moves to where it is used next."""
        text = OURS.replace("label: 'Hedged, or guessed'", "label: &said 'Hedged, or guessed'").replace(
            "- name: second", "- name: second\n    label: *said"
        )
        file = ours(tmp_path, text)
        write_indicator(file, indicator("first"), READER, res(tmp_path), "unused")
        assert load_watchlist(file).indicators[1].label == "Hedged, or guessed"

    def test_writing_twice_changes_nothing(self, tmp_path: Path) -> None:
        """The same indicator again gives the same file."""
        file = ours(tmp_path)
        write_indicator(file, indicator(), READER, res(tmp_path), "unused")
        once = file.read_bytes()
        write_indicator(file, indicator(), READER, res(tmp_path), "unused")
        assert file.read_bytes() == once

    def test_mode_and_link_are_kept(self, tmp_path: Path) -> None:
        """A link still is one, to a file that has the mode it had."""
        file, link = ours(tmp_path), tmp_path / "link.yaml"
        file.chmod(0o640)
        link.symlink_to(file)
        write_indicator(link, indicator(), READER, res(tmp_path), "unused")
        assert link.is_symlink()
        assert file.stat().st_mode & 0o777 == 0o640
        assert load_watchlist(file).indicators[-1].name == "new"


class TestPaths:
    def test_a_new_file_counts_paths_from_its_folder(self, tmp_path: Path) -> None:
        """What lies below is relative, in a folder that is made; what lies elsewhere is not."""
        file = tmp_path / "made" / "new.yaml"
        saes = {"res": SaeSource(path=str(tmp_path / "made" / "x.npz")), "far": SaeSource(path=str(tmp_path / "y.npz"))}
        written = write_indicator(file, indicator(), READER, saes, "fresh")
        assert (written.name, written.file) == ("fresh", file)
        assert {name: source.path for name, source in written.saes.items()} == {
            "res": "x.npz",
            "far": str(tmp_path / "y.npz"),
        }

    @pytest.mark.parametrize("spelled", ["{}/reader", "{}/lists/../reader", "reader", "lists/../reader"])
    def test_a_folder_can_be_moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str) -> None:
        """However its files are named, what is written finds them wherever the folder is moved to."""
        folder, moved = tmp_path / "before", tmp_path / "elsewhere" / "after"
        for name in ("lists", "reader", "saes/one"):
            (folder / name).mkdir(parents=True)
        monkeypatch.chdir(folder)
        saes = {"res": SaeSource(path="lists/../saes/one")}
        write_indicator(folder / "new.yaml", indicator(), ReaderSource(path=spelled.format(folder)), saes, "clinic")
        moved.parent.mkdir()
        monkeypatch.chdir(tmp_path)
        folder.rename(moved)
        read = load_watchlist(moved / "new.yaml")

        assert (read.reader.path, read.saes["res"].path) == ("reader", "saes/one")
        assert read.resolve(read.reader.path) == moved / "reader"
        assert read.resolve(read.reader.path).is_dir()

    def test_dots_behind_a_link_stay(self, tmp_path: Path) -> None:
        """A path that leads elsewhere without its dots keeps them."""
        (tmp_path / "there" / "deep").mkdir(parents=True)
        (tmp_path / "there" / "reader").mkdir()
        (tmp_path / "here" / "reader").mkdir(parents=True)
        (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "deep")
        reader = ReaderSource(path=str(tmp_path / "here" / "link" / ".." / "reader"))
        file = tmp_path / "here" / "new.yaml"
        write_indicator(file, indicator(), reader, {"res": SaeSource(id="a/b/c")}, "clinic")
        read = load_watchlist(file)

        assert read.resolve(read.reader.path).samefile(tmp_path / "there" / "reader")

    def test_links_are_named_as_they_are(self, tmp_path: Path) -> None:
        """A hub cache links to files without a name, and names say what an SAE is."""
        (tmp_path / "blob").write_text("x")
        link = tmp_path / "layer_2" / "params.npz"
        link.parent.mkdir()
        link.symlink_to(tmp_path / "blob")
        written = write_indicator(
            tmp_path / "new.yaml", indicator(), READER, {"res": SaeSource(path=str(link))}, "fresh"
        )
        assert written.saes["res"].path == "layer_2/params.npz"


class TestRefusal:
    @pytest.mark.parametrize("rehearse", [True, False])
    @pytest.mark.parametrize(
        ("reader", "path", "made", "message"),
        [
            (ReaderSource(id="google/gemma-2-9b"), "sae/params.npz", indicator(), "give another --out"),
            (READER, "sae/else.npz", indicator(), "give another --sae-name"),
            (
                READER,
                "sae/params.npz",
                Indicator.model_validate(
                    {
                        "name": "both",
                        "kind": "combination",
                        "combines": [{"indicator": "nowhere", "weight": 1}],
                        "threshold": 0,
                    }
                ),
                "ours.yaml:.* there is no indicator of features, a probe, obfuscation or words named 'nowhere'",
            ),
        ],
    )
    def test_a_refusal_changes_nothing(
        self, tmp_path: Path, *, reader: ReaderSource, path: str, made: Indicator, message: str, rehearse: bool
    ) -> None:
        """What cannot be in the file is refused by name, rehearsed or not; the file stays, and nothing lies beside it."""
        file = ours(tmp_path)
        with pytest.raises(WatchlistError, match=message):
            write_indicator(
                file, made, reader, {"res": SaeSource(path=str(tmp_path / path))}, "unused", rehearse=rehearse
            )
        assert file.read_text() == OURS
        assert left_over(tmp_path) == []

    def test_a_rehearsal_writes_nothing(self, tmp_path: Path) -> None:
        """It returns what would be written."""
        file = ours(tmp_path)
        found: Watchlist = write_indicator(file, indicator(), READER, res(tmp_path), "unused", rehearse=True)
        assert found.indicators[-1] == indicator()
        assert file.read_text() == OURS
        assert left_over(tmp_path) == []

    def test_a_folder_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        """One sentence that names the file."""
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="cannot be written"):
            write_indicator(tmp_path / "file" / "new.yaml", indicator(), READER, res(tmp_path), "fresh")
