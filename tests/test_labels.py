"""Labels from Neuronpedia's exports: read, searched, shown beside features, and never called evidence."""

import gzip
import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import scopewatch.app.server
import scopewatch.engine.build
from conftest import House, engine_identity, watchlist_document
from scopewatch.cli import main
from scopewatch.client import AsyncClient
from scopewatch.config import Config
from scopewatch.errors import LabelError
from scopewatch.identity import EngineIdentity, FeatureKey
from scopewatch.verdicts import LABEL_NOTE, Label
from scopewatch.watch.label_export import MAX_LINE_BYTES
from scopewatch.watch.labels import Imported, LabelledFeature, import_file, open_labels
from servers import config, serving

MODEL, SOURCE = "gemma-2-2b", "20-gemmascope-res-16k"
PAGES = f"{MODEL}/{SOURCE}"
METHOD, EXPLAINER = "oai_token-act-pair", "gpt-4o-mini"
ATTRIBUTION = f"neuronpedia: {METHOD}, {EXPLAINER}"


def explanation(index: object, description: str, **changes: object) -> dict[str, Any]:
    """A row of explanations/batch-N.jsonl.gz, with every column that Neuronpedia's export writes."""
    row = {
        "id": f"clz{index}",
        "modelId": MODEL,
        "layer": SOURCE,
        "index": index,
        "authorId": "someone",
        "description": description,
        "embedding": [0.25] * 256,
        "typeName": METHOD,
        "explanationModelName": EXPLAINER,
        "umap_x": 0.0,
        "umap_y": 0.0,
        "umap_cluster": 0,
        "umap_log_feature_sparsity": 0.0,
    }
    return row | changes


def feature(index: object, max_act: float | None = 34.5, frac: float = 0.00125, **changes: object) -> dict[str, Any]:
    """A row of features/batch-N.jsonl.gz, with the columns that matter and some that do not."""
    row = {
        "modelId": MODEL,
        "layer": SOURCE,
        "index": index,
        "maxActApprox": max_act,
        "frac_nonzero": frac,
        "vector": [0.5] * 2304,
        "pos_str": ["may", "might"],
        "hookName": "blocks.20.hook_resid_post",
        "vectorLabel": None,
    }
    return row | changes


def export(file: Path, *rows: object) -> Path:
    """JSON lines, gzipped if the file's name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    return file


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


def filled(index: Path, *rows: object) -> Path:
    import_file(index, export(index.with_suffix(".jsonl.gz"), *rows))
    return index


def found(index: Path, query: str, **options: Any) -> list[str]:
    """Numbers of the features found, best first."""
    with open_labels(index) as labels:
        return [hit.feature.rpartition("/")[2] for hit in labels.search(query, **options)]


def shown(index: Path, number: int) -> LabelledFeature:
    with open_labels(index) as labels:
        return labels.show(f"{PAGES}/{number}")


def complaint(run: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(LabelError) as caught:
        run(*arguments, **options)
    return str(caught.value)


# Import


def test_a_feature_gathers_what_several_files_say_of_it(index: Path, tmp_path: Path) -> None:
    """All explanations of a feature are kept, with their authors, beside its numbers, whatever order the files come in."""
    other = {"typeName": "np_acts-logits-general", "explanationModelName": "gemini-2.0-flash"}
    first = export(tmp_path / "batch-3.jsonl.gz", explanation("1234", "doubt"), explanation("1234", "may", **other))
    second = export(tmp_path / "batch-0.jsonl", feature("1234", 34.5, 0.00125), feature("7", None, 0.0))
    unsigned = export(tmp_path / "own.jsonl", explanation("1234", "perhaps", typeName=None, explanationModelName=None))

    assert Imported(explanations=2, new_explanations=2, features=0) == import_file(index, first)
    assert Imported(explanations=0, new_explanations=0, features=2) == import_file(index, second)
    assert Imported(explanations=1, new_explanations=1, features=0) == import_file(index, unsigned)
    assert shown(index, 1234) == LabelledFeature(
        f"{PAGES}/1234",
        (
            Label("doubt", ATTRIBUTION),
            Label("perhaps", "neuronpedia: unsigned"),
            Label("may", "neuronpedia: np_acts-logits-general, gemini-2.0-flash"),
        ),
        max_act_approx=34.5,
        frac_nonzero=0.00125,
    )
    assert shown(index, 7) == LabelledFeature(f"{PAGES}/7", (), None, 0.0)


def test_a_row_is_known_by_its_index_not_by_its_place(index: Path, tmp_path: Path) -> None:
    """Batches are ordered by index as text, so that 1000 comes before 2: each row keeps its own number."""
    numbers = sorted(map(str, range(0, 1100, 9)))
    import_file(index, export(tmp_path / "batch-5.jsonl.gz", *(explanation(n, f"number n{n}n") for n in numbers)))

    assert numbers != sorted(numbers, key=int)
    for number in numbers:
        assert [number] == found(index, f"n{number}n")


@pytest.mark.parametrize("name", ["features/batch-0.jsonl.gz", "explanations/batch-0.jsonl", "labels.txt"])
def test_rows_say_what_they_are(index: Path, tmp_path: Path, name: str) -> None:
    """Neither the kind of a file nor its compression is taken from its name."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    text = json.dumps(explanation("1", "doubt")) + "\n" + json.dumps(feature("1"))
    for content in (text.encode(), gzip.compress(text.encode())):
        file.write_bytes(content)
        done = import_file(index, file)
        assert [1, 1] == [done.explanations, done.features]


def test_reading_a_file_again_changes_nothing(index: Path, tmp_path: Path) -> None:
    """The second import of a file adds no explanation and leaves what is shown and found as it was."""
    rows = [explanation("1", "doubt"), explanation("1", "doubts"), explanation("2", "doubt"), feature("2")]
    file = export(tmp_path / "batch-0.jsonl.gz", *rows)
    first = import_file(index, file)
    before = [shown(index, number) for number in (1, 2)], found(index, "doubt")
    again = import_file(index, file)

    assert replace(first, new_explanations=0) == again
    assert before == ([shown(index, number) for number in (1, 2)], found(index, "doubt"))


def test_newer_numbers_of_a_feature_replace_the_older(index: Path, tmp_path: Path) -> None:
    """A feature has one maximum and one share of tokens: those imported last."""
    for number, value in enumerate((10.0, 20.0)):
        import_file(index, export(tmp_path / f"{number}.jsonl", feature("1", value, value / 100)))

    assert (20.0, 0.2) == (shown(index, 1).max_act_approx, shown(index, 1).frac_nonzero)


def test_a_label_is_one_clean_line(index: Path) -> None:
    """Line ends, escape sequences and marks that turn the direction of text do not reach a terminal; empty ones are left out."""
    filled(index, explanation("1", "a\nb\x1b[31m \u202ec\t naïve 也许 🤔 "), explanation("1", " \n"))

    assert ["a b [31m c naïve 也许 🤔"] == [label.text for label in shown(index, 1).labels]


GOOD = json.dumps(explanation("5", "good")).encode() + b"\n"
ROW = explanation("6", "bad")


def without(key: str, row: dict[str, Any] = ROW) -> bytes:
    return json.dumps({name: value for name, value in row.items() if name != key}).encode()


def changed(**changes: object) -> bytes:
    return json.dumps(ROW | changes).encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(b"{", "Invalid JSON", id="cut off"),
        pytest.param(b"", "Invalid JSON", id="blank"),
        pytest.param(b"\xff\xfe{}", "Invalid JSON", id="not UTF-8"),
        pytest.param(b'{"modelId": "\xff"}', "Invalid JSON", id="text not UTF-8"),
        pytest.param(b"[" * 100_000, "Invalid JSON", id="nested without end"),
        pytest.param(b"7", "Input should be an object", id="a number"),
        pytest.param(without("modelId"), "modelId: Field required", id="no model"),
        pytest.param(without("layer"), "layer: Field required", id="no source"),
        pytest.param(without("index"), "index: Field required", id="no index"),
        pytest.param(without("description"), "neither an explanation", id="no description"),
        pytest.param(without("maxActApprox", feature("6")), "neither an explanation", id="no maximum"),
        pytest.param(without("frac_nonzero", feature("6")), "neither an explanation", id="no share"),
        pytest.param(
            without("description", ROW | {"tokens": ["a"], "values": [1.0], "maxValue": 1.0}),
            "neither an explanation (with description) nor a feature (with maxActApprox, frac_nonzero)",
            id="activations",
        ),
        pytest.param(changed(index=6), "index: Input should be a valid string", id="index a number"),
        pytest.param(changed(index="-1"), "index: String should match", id="index negative"),
        pytest.param(changed(index="06"), "index: String should match", id="index with a zero before it"),
        pytest.param(changed(index="6\n"), "index: String should match", id="index with a line end"),
        pytest.param(changed(index="9" * 5000), "index: String should match", id="index without end"),
        pytest.param(changed(modelId="../etc"), "modelId: String should match", id="model a path"),
        pytest.param(changed(layer=""), "layer: String should match", id="source empty"),
        pytest.param(changed(description=None), "description: Input should be a valid string", id="description null"),
        pytest.param(changed(description="\ud83e"), "Invalid JSON", id="lone surrogate"),
        pytest.param(changed(typeName=7), "typeName: Input should be a valid string", id="method a number"),
        pytest.param(json.dumps(feature("6", float("nan"))).encode(), "maxActApprox: ", id="not a number"),
        pytest.param(json.dumps(feature("6", 1.0, float("inf"))).encode(), "frac_nonzero: ", id="infinite"),
        pytest.param(changed(notes="x" * MAX_LINE_BYTES), f"longer than {MAX_LINE_BYTES} bytes", id="too long"),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
def test_a_bad_line_is_named_and_nothing_of_its_file_is_kept(
    index: Path, tmp_path: Path, line: bytes, said: str, *, gzipped: bool
) -> None:
    """One mistake is one line with the file, the line number and the reason, and the index stays as it was."""
    filled(index, explanation("1", "before"))
    content = GOOD + line + b"\n" + GOOD
    file = tmp_path / "batch-0.jsonl.gz"
    file.write_bytes(gzip.compress(content) if gzipped else content)
    message = complaint(import_file, index, file)

    assert message.startswith(f"{file}:2: ")
    assert said in message
    assert len(message) < 500
    assert "\n" not in message
    assert (["1"], []) == (found(index, "before"), found(index, "good"))


@pytest.mark.parametrize("damage", ["cut off", "a byte changed", "something after its end"])
def test_damaged_gzip_is_named_and_nothing_of_its_file_is_kept(index: Path, tmp_path: Path, damage: str) -> None:
    """A download that broke off or went wrong is an error with the file and a line, not a smaller import."""
    file = export(tmp_path / "batch-0.jsonl.gz", *(explanation(str(n), f"good {n} {hash(n)}") for n in range(2000)))
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(
        {
            "cut off": whole[:middle],
            "a byte changed": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "something after its end": whole + b"<html>",
        }[damage]
    )
    filled(index, explanation("1", "before"))
    message = complaint(import_file, index, file)

    assert message.startswith(f"{file}:")
    # A changed byte can also unpack to other text, which is then no JSON, or fail the checksum at the end.
    assert ": damaged gzip data: " in message or ": Invalid JSON" in message
    assert (["1"], []) == (found(index, "before"), found(index, "good"))


def test_a_bomb_costs_no_memory(index: Path, tmp_path: Path) -> None:
    """A small file that unpacks to one endless line is refused after the longest line allowed, not unpacked."""
    file = tmp_path / "bomb.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * (40 * MAX_LINE_BYTES), compresslevel=1))
    tracemalloc.start()
    try:
        message = complaint(import_file, index, file)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert message == f"{file}:1: longer than {MAX_LINE_BYTES} bytes; no row of an export is"
    assert peak_bytes < 6 * MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "cannot be read: No such file or directory"),
        ("folder", "cannot be read: Is a directory"),
        ("empty", "holds no rows"),
        ("empty gzip", "holds no rows"),
    ],
)
def test_a_file_that_holds_nothing_is_named(index: Path, tmp_path: Path, kind: str, said: str) -> None:
    """A file that is not there, is none, or has no row is an error, not an import of nothing."""
    file = tmp_path / "batch-0.jsonl.gz"
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes(gzip.compress(b"") if kind == "empty gzip" else b"")

    assert f"{file}: {said}" == complaint(import_file, index, file)


@pytest.mark.parametrize("row", [explanation, feature], ids=["explanation", "feature"])
@pytest.mark.parametrize("layer", ["0-gemmascope-transcoder-16k", "25-gemmascope-transcoder-16k"])
def test_labels_known_to_be_wrong_are_refused(
    index: Path, tmp_path: Path, row: Callable[..., dict[str, Any]], layer: str
) -> None:
    """What Neuronpedia says of Gemma Scope's transcoders is refused with the reason, before anything is kept."""
    file = export(
        tmp_path / "batch-0.jsonl", explanation("5", "good"), row("6", 1.0 if row is feature else "x", layer=layer)
    )
    message = complaint(import_file, index, file)

    assert message.startswith(f"{file}:2: labels of {MODEL}/{layer} are refused: ")
    assert "raw residual stream" in message


def test_other_transcoders_are_taken(index: Path) -> None:
    """The refusal is of one model's transcoders: those of another, and its other SAEs, come in."""
    filled(
        index,
        explanation("1", "doubt", modelId="gemma-3-4b-it", layer="22-gemmascope-2-transcoder-16k"),
        explanation("2", "doubt", layer="20-gemmascope-mlp-16k"),
    )

    assert ["2", "1"] == found(index, "doubt")


# Search


def test_search_finds_words_and_beginnings_of_words(index: Path) -> None:
    """All words of a query must be in one label, in any order, in either case, as beginnings, accents or not."""
    filled(
        index,
        explanation("1", "expressions of uncertainty or doubt"),
        explanation("2", "Uncertain dates in naïve histories"),
        explanation("3", "certain people"),
        explanation("4", "doubt"),
        explanation("4", "uncertain"),
        explanation("5", "也许 不确定"),
    )

    assert {"1", "2", "4"} == set(found(index, "uncertain"))
    assert ["1"] == found(index, "DOUBT uncertain")
    assert ["2"] == found(index, "naive hist")
    assert ["5"] == found(index, "也许")
    assert [] == found(index, "uncertainties")


def test_the_best_match_comes_first(index: Path) -> None:
    """A label that says little else comes before one in which the word is one of many; a feature comes once."""
    long = "text about the weather, trains, prices, rain, food, gardens, taxes and, in passing, doubt"
    filled(index, explanation("1", long), explanation("2", "doubt"), explanation("1", long + "s"), feature("3"))

    assert ["2", "1"] == found(index, "doubt")


def test_a_search_can_be_narrowed(index: Path) -> None:
    """`source` keeps one SAE's features, `limit` the best ones."""
    filled(index, *(explanation(str(n), "doubt", layer=f"{n % 2}-res") for n in range(10)))

    assert ["1", "3", "5", "7", "9"] == found(index, "doubt", source=f"{MODEL}/1-res")
    assert ["1", "3"] == found(index, "doubt", source=f"{MODEL}/1-res", limit=2)
    assert complaint(found, index, "doubt", source=f"{MODEL}/2-res") == (
        f"{MODEL}/2-res: nothing of it is in the index (there: {MODEL}/0-res, {MODEL}/1-res)"
    )


@pytest.fixture(scope="module")
def one_label(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(
        tmp_path_factory.mktemp("one") / "labels.db", explanation("1", 'say "NEAR(a b)" AND col:x* ^caret -minus')
    )


@pytest.mark.parametrize(
    "query",
    [
        '"NEAR(a',
        "AND",
        "col:x*",
        "^caret",
        "-minus",
        'say"',
        '"say',
        "x* ) AND",
        "{say}",
        "NEAR(a b)",
        "col : x",
        "'say'",
    ],
)
def test_nothing_in_a_query_is_syntax(one_label: Path, query: str) -> None:
    """Quotes, operators and brackets of the full-text language are taken as text, and find it."""
    assert ["1"] == found(one_label, query)


@given(query=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_can_be_searched_for(one_label: Path, query: str) -> None:
    """A query finds something, or nothing, or has no word in it; it never breaks the search."""
    if any(map(str.isalnum, query)):
        assert found(one_label, query) in ([], ["1"])
    else:
        assert "there is no word to search for" in complaint(found, one_label, query)


def test_a_very_long_query_can_be_searched_for(one_label: Path) -> None:
    """Thousands of words are no error."""
    assert ["1"] == found(one_label, "say minus " * 5000)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1234", "expected a Neuronpedia id, such as gemma-2-2b/20-gemmascope-res-16k/1234"),
        ("a/b/c/1", "expected a Neuronpedia id"),
        (f"{PAGES}/-1", "expected a Neuronpedia id"),
        (f"{PAGES}/1\n", "expected a Neuronpedia id"),
        (f"{PAGES}/{'9' * 30}", "expected a Neuronpedia id"),
        (f"{PAGES}/2", "not in the index; import the batch that has it"),
        (f"{MODEL}/9-res/1", f"{MODEL}/9-res: nothing of it is in the index (there: {PAGES})"),
    ],
)
def test_a_feature_that_cannot_be_shown_is_named(one_label: Path, name: str, said: str) -> None:
    """A wrong id and an unknown feature are errors that say which."""
    with open_labels(one_label) as labels:
        assert said in complaint(labels.show, name)


# The index itself


def database(file: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(file)) as other:
        for statement in statements:
            other.execute(statement)
        other.commit()
    return file


def opened(index: Path) -> None:
    with open_labels(index):
        raise AssertionError("it opened")


@pytest.mark.parametrize("use", ["open", "import"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("folder", "a directory, where a label index (one file) is expected"),
        ("text", "cannot be used as a label index: file is not a database"),
        ("other database", "not a label index; give the file that"),
        ("other version", "a label index of version 99, and this scopewatch reads version 1; import the exports again"),
        ("in no folder", "no such label index"),
        ("a name too long", "cannot be used as a label index: File name too long"),
    ],
)
def test_what_is_no_index_is_refused(index: Path, tmp_path: Path, kind: str, said: str, use: str) -> None:
    """A path that holds something else is named, for reading and for importing, and what it holds is left alone."""
    if kind == "folder":
        index.mkdir()
    elif kind == "text":
        index.write_text("no database, " * 100)
    elif kind == "other database":
        database(index, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")
    elif kind == "other version":
        filled(index, explanation("1", "doubt"))
        database(index, "PRAGMA user_version = 99")
    elif kind == "a name too long":
        index = tmp_path / ("x" * 300)
    else:
        index = index / "labels.db"
        said = "cannot be used as a label index: unable to open" if use == "import" else said
    holder = index if kind in {"text", "other database", "other version"} else None
    before = holder and holder.read_bytes()
    file = export(tmp_path / "batch-0.jsonl", explanation("1", "doubt"))
    message = complaint(opened, index) if use == "open" else complaint(import_file, index, file)

    assert message.startswith(f"{index}: ")
    assert said in message
    assert before == (holder and holder.read_bytes())


def test_a_missing_index_says_how_to_make_one(index: Path) -> None:
    """Reading from an index that is not there makes no empty one, and says what does."""
    assert f"{index}: there is no such label index; `scopewatch features import` makes one" == complaint(opened, index)
    assert not index.exists()


def test_an_import_that_fails_first_leaves_no_index_that_reads(index: Path, tmp_path: Path) -> None:
    """After a first import that failed there is nothing to read from, and a second one starts afresh."""
    complaint(import_file, index, export(tmp_path / "bad.jsonl", {}))
    assert "not a label index" in complaint(opened, index)

    assert ["1"] == found(filled(index, explanation("1", "doubt")), "doubt")


def test_an_index_is_read_while_another_process_imports(index: Path) -> None:
    """An import that is under way neither blocks readers nor shows them half a file."""
    filled(index, explanation("1", "doubt"))
    with closing(sqlite3.connect(index, isolation_level=None)) as importing:
        importing.execute("BEGIN IMMEDIATE")
        importing.execute("INSERT INTO explanations (feature, text, method, model) VALUES (1, 'doubts', '', '')")
        assert 1 == len(shown(index, 1).labels)


# Labels of watched features


def identity_of(**neuronpedia: str) -> EngineIdentity:
    """An engine that watches features 3 and 7 of SAEs with these pages."""
    identity = engine_identity(**dict.fromkeys(neuronpedia, (3, 7)))
    saes = tuple(replace(sae, neuronpedia=neuronpedia[sae.name]) for sae in identity.saes)
    return replace(identity, saes=saes)


def test_watched_features_find_their_labels(index: Path) -> None:
    """A feature is looked up by its SAE's pages, or by its SAE's name where that is the pages' name."""
    filled(index, explanation("3", "three"), explanation("7", "seven"), explanation("3", "other", layer="9-res"))
    named = identity_of(mid=PAGES, late=f"{MODEL}/9-res", none="")
    direct = replace(named, saes=(replace(named.saes[0], name=PAGES, neuronpedia=""),))
    with open_labels(index) as labels:
        assert labels.labels_of(named) == {
            FeatureKey("mid", 3): Label("three", ATTRIBUTION),
            FeatureKey("mid", 7): Label("seven", ATTRIBUTION),
            FeatureKey("late", 3): Label("other", ATTRIBUTION),
        }
        assert labels.labels_in(named.saes[0], [7, 4, 3]) == {
            3: Label("three", ATTRIBUTION),
            7: Label("seven", ATTRIBUTION),
        }
        assert labels.labels_of(direct) == {
            FeatureKey(PAGES, 3): Label("three", ATTRIBUTION),
            FeatureKey(PAGES, 7): Label("seven", ATTRIBUTION),
        }


def test_of_several_labels_the_one_about_the_text_is_taken(index: Path) -> None:
    """Explanations made from activating text alone come before those that mix in what the feature makes a model say."""
    filled(index, explanation("3", "says", typeName="np_acts-logits-general"), explanation("3", "reads"))
    with open_labels(index) as labels:
        assert ["reads"] == [label.text for label in labels.labels_of(identity_of(mid=PAGES)).values()]


def test_a_long_label_is_cut_to_what_a_watchlist_may_say(index: Path) -> None:
    """A reply carries at most 200 characters of a label; the index shows all of it."""
    filled(index, explanation("3", "x" * 1000), explanation("7", "y" * 200))
    with open_labels(index) as labels:
        texts = [label.text for label in labels.labels_of(identity_of(mid=PAGES)).values()]

    assert ["x" * 199 + "…", "y" * 200] == texts
    assert "x" * 1000 == shown(index, 3).labels[0].text


# In a service


def labelled_watchlist(house: House, file: Path, name: str, *features: dict[str, object]) -> Path:
    """A watchlist whose indicator shows each of its features on any response."""
    saes = {
        "mid": {"path": str(house.saes["mid"]), "neuronpedia": PAGES},
        "late": {"path": str(house.saes["late"])},
    }
    indicator = {"name": "alpha", "pooling": "sum", "features": list(features), "threshold": 0.0}
    document = watchlist_document(name=name, reader={"path": str(house.reader)}, saes=saes, indicators=[indicator])
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


async def test_a_reply_says_who_wrote_its_labels(house: House, index: Path, tmp_path: Path) -> None:
    """The watchlist's own label wins, one from the index names its author, and only then does the reply carry the note."""
    filled(index, explanation("4", "four, says a machine"), explanation("11", "eleven, says a machine"))
    own = {"feature": "mid/4", "label": "four, says a person"}
    mixed = labelled_watchlist(
        house, tmp_path / "mixed.yaml", "mixed", own, {"feature": "mid/11"}, {"feature": "late/7"}, {"feature": "mid/6"}
    )
    plain = labelled_watchlist(house, tmp_path / "plain.yaml", "plain", own, {"feature": "late/7"})
    text = "It may rain tomorrow, perhaps. The patient might have gout, but we are not sure."
    async with (
        serving(config(mixed, plain, labels=str(index))) as server,
        AsyncClient(server.grpc_address, timeout_s=60) as client,
    ):
        replies = {name: await client.score(response=text, watchlist=name) for name in ("mixed", "plain")}
    labels = {part.feature: (part.label, part.label_source) for part in replies["mixed"].indicators[0].features}

    assert labels == {
        "mid/4": ("four, says a person", "watchlist"),
        "mid/11": ("eleven, says a machine", ATTRIBUTION),
        "late/7": ("", ""),
        "mid/6": ("", ""),
    }
    assert [LABEL_NOTE, ""] == [replies["mixed"].label_note, replies["plain"].label_note]


def test_a_wrong_index_is_found_before_the_weights_are_read(
    index: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service whose label index is missing does not start, and says so at once."""
    monkeypatch.setattr(scopewatch.engine.build, "build_engine", lambda *_: pytest.fail("weights were read"))

    assert "there is no such label index" in complaint(
        scopewatch.app.load.load, Config(watchlist=(house.watchlist,), labels=str(index))
    )


# The command


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as left:
        main(["features", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert left.value.code == code, err
    return out, err


def test_the_command_imports_searches_and_shows(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Import counts what it read; search and show print id, labels, numbers, and once the note about labels."""
    files = [
        export(tmp_path / "a.jsonl.gz", explanation("1234", "doubt"), explanation("7", "doubts about the price of it")),
        export(tmp_path / "b.jsonl", feature("1234", 34.125, 0.00125)),
    ]
    out, _ = run(capsys, "import", "--labels", index, *files, files[0])
    assert [
        f"{files[0]}: 2 explanations, 2 new; 0 features",
        f"{files[1]}: 0 explanations, 0 new; 1 features",
        f"{files[0]}: 2 explanations, 0 new; 0 features",
    ] == out.splitlines()
    best = f"{PAGES}/1234  maxActApprox 34.12  frac_nonzero 0.00125\n    doubt  ({ATTRIBUTION})\n"
    second = (
        f"{PAGES}/7  maxActApprox unknown  frac_nonzero unknown\n    doubts about the price of it  ({ATTRIBUTION})\n"
    )
    assert run(capsys, "search", "--labels", index, "doubt") == (f"{best}{second}\n{LABEL_NOTE}\n", "")
    assert run(capsys, "search", "--labels", index, "doubt", "--limit", "1") == (f"{best}\n{LABEL_NOTE}\n", "")
    assert run(capsys, "search", "--labels", index, "the", "doubt") == (f"{second}\n{LABEL_NOTE}\n", "")
    assert run(capsys, "show", "--labels", index, f"{PAGES}/1234") == (f"{best}\n{LABEL_NOTE}\n", "")
    assert run(capsys, "search", "--labels", index, "rain") == ("no label in the index has all of these words\n", "")


def test_the_command_prints_json(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is one object with the features and the note, for search and for show, also when there are none."""
    filled(index, explanation("1234", "naïve 也许"), feature("1234", 34.125, 0.00125))
    row = {
        "feature": f"{PAGES}/1234",
        "labels": [{"text": "naïve 也许", "source": ATTRIBUTION}],
        "max_act_approx": 34.125,
        "frac_nonzero": 0.00125,
    }
    for arguments, expected in [
        (("search", "naive", "--source", PAGES), [row]),
        (("show", f"{PAGES}/1234"), [row]),
        (("search", "rain"), []),
    ]:
        out, _ = run(capsys, *arguments, "--json", "--labels", index)
        assert {"features": expected, "note": LABEL_NOTE} == json.loads(out)


def test_the_index_can_come_from_the_environment(
    index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCOPEWATCH_LABELS names the index for every command."""
    filled(index, explanation("1", "doubt"))
    monkeypatch.setenv("SCOPEWATCH_LABELS", str(index))

    assert run(capsys, "search", "doubt")[0].startswith(f"{PAGES}/1 ")


@pytest.mark.parametrize("action", [("import", "a"), ("search", "a"), ("show", "a")], ids=lambda action: action[0])
def test_without_an_index_the_command_says_how_to_name_one(
    action: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """No index is one line that names the flag and the variable."""
    assert run(capsys, *action, code=2) == (
        "",
        "scopewatch: no label index: give its file with --labels, or in the variable SCOPEWATCH_LABELS\n",
    )


def test_the_first_wrong_file_ends_an_import(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files before a wrong one stay imported, those after it are not, and the exit code is 2."""
    good, bad, later = (
        export(tmp_path / f"{name}.jsonl", row)
        for name, row in [("good", explanation("1", "doubt")), ("bad", {}), ("later", explanation("2", "doubt"))]
    )
    out, err = run(capsys, "import", "--labels", index, good, bad, later, code=2)

    assert out == f"{good}: 1 explanations, 1 new; 0 features\n"
    assert err.startswith(f"scopewatch: {bad}:1: ")
    assert ["1"] == found(index, "doubt")


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
def test_a_limit_is_a_positive_number(index: Path, capsys: pytest.CaptureFixture[str], limit: str) -> None:
    """A limit that is none is refused before the index is read."""
    _, err = run(capsys, "search", "--labels", index, "doubt", f"--limit={limit}", code=2)

    assert "expected a number of at least 1" in err
