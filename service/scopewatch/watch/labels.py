"""What features are said to mean: Neuronpedia's exports in a local SQLite index with full-text search.

A feature can have several explanations, and all are kept.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scopewatch.errors import LabelError
from scopewatch.identity import EngineIdentity, FeatureKey, SaeIdentity
from scopewatch.verdicts import Label
from scopewatch.watch.label_export import ExportedRow, read_export

_MAX_SHOWN_CHARS = 200
"""Longest label in a reply; it is the same in a watchlist."""
_APPLICATION_ID = int.from_bytes(b"swlb")
_VERSION = 1
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID}

PRAGMA user_version = {_VERSION}

CREATE TABLE features (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, number INTEGER NOT NULL, max_act REAL, frac_nonzero REAL,
    UNIQUE (source, number)
)

CREATE TABLE explanations (
    id INTEGER PRIMARY KEY, feature INTEGER NOT NULL REFERENCES features (id),
    text TEXT NOT NULL, method TEXT NOT NULL, model TEXT NOT NULL,
    UNIQUE (feature, text, method, model)
)

CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'explanations', content_rowid = 'id', prefix = '2 3 4', tokenize = 'unicode61 remove_diacritics 2'
)

CREATE TRIGGER explanation_words AFTER INSERT ON explanations BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END
"""  # noqa: S608 - nothing of it comes from outside
_ID = re.compile(r"(?P<source>[^/]+/[^/]+)/(?P<number>0|[1-9][0-9]{0,8})\Z")


@dataclass(frozen=True, slots=True)
class Imported:
    """How many rows of one export file were read."""

    explanations: int
    new_explanations: int
    """Explanations that the index did not have."""
    features: int


@dataclass(frozen=True, slots=True)
class LabelledFeature:
    """A feature as the index knows it."""

    feature: str
    """`{model}/{source}/{index}`, as Neuronpedia writes it."""
    labels: tuple[Label, ...]
    max_act_approx: float | None
    """Largest activation on Neuronpedia's sample texts, with decoder rows scaled to unit norm; no threshold."""
    frac_nonzero: float | None
    """Share of tokens of those texts on which it fires."""


def import_file(index: Path, file: Path) -> Imported:
    """Reads one export file into an index, which is made if there is none: all of the file, or nothing.

    Args:
        index: The SQLite file of the index.
        file: JSON lines, gzipped or not; its rows say whether they are explanations or features.

    Raises:
        LabelError: A file cannot be used, or a row is wrong; names the file, and the line if it is one.
    """
    explanations = new = features = 0
    with _database(index, "rwc") as database:
        database.execute("BEGIN IMMEDIATE")
        _create_if_empty(database, index)
        for row in read_export(file):
            if row.explains:
                explanations += 1
                new += _add_explanation(database, row)
            else:
                features += 1
                _add_statistics(database, row)
        database.execute("COMMIT")
    return Imported(explanations, new, features)


@contextmanager
def open_labels(index: Path) -> Iterator["LabelIndex"]:
    """Opens an index to read from.

    Raises:
        LabelError: The file is not there, or not an index of this version.
    """
    with _database(index, "ro") as database:
        _check(database, index)
        yield LabelIndex(database)


class LabelIndex:
    """A label index to read from; `open_labels` gives one."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def search(self, query: str, source: str = "", limit: int = 20) -> list[LabelledFeature]:
        """Features one of whose labels has all of some words, or words that begin with them; best match (BM25) first.

        Args:
            query: Words; nothing in it is syntax.
            source: Only features of this `{model}/{source}`; empty for all.
            limit: Most features returned.

        Raises:
            LabelError: There is no word in the query, or the index has nothing of the source.
        """
        words = [word for word in query.replace("\0", " ").split() if any(map(str.isalnum, word))]
        if not words:
            raise LabelError(f"{query!r}: there is no word to search for")
        if source:
            self._expect_source(source)
        # A quoted string is a phrase to FTS5, whatever stands in it.
        match = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
        found = self._database.execute(
            "WITH hits AS MATERIALIZED (SELECT rowid AS id, rank AS score FROM words WHERE words MATCH ?)"
            " SELECT source, number, max_act, frac_nonzero FROM hits JOIN explanations USING (id)"
            " JOIN features ON features.id = feature WHERE ? IN ('', source)"
            " GROUP BY features.id ORDER BY min(score), source, number LIMIT ?",
            (match, source, limit),
        )
        return [self._labelled(*row) for row in found.fetchall()]

    def show(self, feature: str) -> LabelledFeature:
        """What the index knows of one feature.

        Args:
            feature: `{model}/{source}/{index}`.

        Raises:
            LabelError: The text is no such name, or the index does not have the feature.
        """
        name = _ID.match(feature)
        if not name:
            raise LabelError(f"{feature!r}: expected a Neuronpedia id, such as gemma-2-2b/20-gemmascope-res-16k/1234")
        found = self._database.execute(
            "SELECT source, number, max_act, frac_nonzero FROM features WHERE source = ? AND number = ?",
            (name["source"], int(name["number"])),
        ).fetchone()
        if not found:
            self._expect_source(name["source"])
            raise LabelError(f"{feature}: not in the index; import the batch that has it")
        return self._labelled(*found)

    def labels_of(self, identity: EngineIdentity) -> dict[FeatureKey, Label]:
        """A label for each watched feature that the index knows, cut to the length of a watchlist's labels."""
        return {
            FeatureKey(sae.name, number): label
            for sae in identity.saes
            for number, label in self.labels_in(sae, sae.watched).items()
        }

    def labels_in(self, sae: SaeIdentity, features: Iterable[int]) -> dict[int, Label]:
        """A label for each of some features of an SAE that the index knows, cut in the same way.

        Args:
            sae: The SAE.
            features: Their indices.
        """
        found: dict[int, Label] = {}
        for number in features:
            if labels := self._labels(sae.neuronpedia or sae.name, number):
                text = labels[0].text
                short = text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"
                found[number] = Label(short, labels[0].source)
        return found

    def _labelled(self, source: str, number: int, max_act: float | None, frac: float | None) -> LabelledFeature:
        return LabelledFeature(f"{source}/{number}", self._labels(source, number), max_act, frac)

    def _labels(self, source: str, number: int) -> tuple[Label, ...]:
        # First the method that describes nothing but the text on which a feature fires: that is what is watched here.
        found = self._database.execute(
            "SELECT text, method, model FROM explanations JOIN features ON features.id = feature"
            " WHERE source = ? AND number = ? ORDER BY method <> 'oai_token-act-pair', method, model, text",
            (source, number),
        )
        return tuple(Label(text, _attribution(method, model)) for text, method, model in found)

    def _expect_source(self, source: str) -> None:
        known = [name for (name,) in self._database.execute("SELECT DISTINCT source FROM features ORDER BY source")]
        if source not in known:
            raise LabelError(f"{source}: nothing of it is in the index (there: {', '.join(known) or 'nothing'})")


def _add_explanation(database: sqlite3.Connection, row: ExportedRow) -> int:
    """Adds an explanation, and gives how many the index did not have: 0 or 1."""
    database.execute("INSERT OR IGNORE INTO features (source, number) VALUES (?, ?)", row.feature)
    if not row.description:
        return 0
    return database.execute(
        "INSERT OR IGNORE INTO explanations (feature, text, method, model)"
        " SELECT id, ?, ?, ? FROM features WHERE source = ? AND number = ?",
        (row.description, row.method or "", row.explainer or "", *row.feature),
    ).rowcount


def _add_statistics(database: sqlite3.Connection, row: ExportedRow) -> None:
    database.execute(
        "INSERT INTO features (source, number, max_act, frac_nonzero) VALUES (?, ?, ?, ?) ON CONFLICT DO"
        " UPDATE SET max_act = excluded.max_act, frac_nonzero = excluded.frac_nonzero",
        (*row.feature, row.max_act_approx, row.frac_nonzero),
    )


def _attribution(method: str, model: str) -> str:
    return f"neuronpedia: {', '.join(filter(None, (method, model))) or 'unsigned'}"


@contextmanager
def _database(file: Path, mode: Literal["ro", "rwc"]) -> Iterator[sqlite3.Connection]:
    """A connection on which transactions are begun by hand; what is not committed is undone."""
    try:
        if file.is_dir():
            raise LabelError(f"{file}: a directory, where a label index (one file) is expected")
        if mode == "ro" and not file.exists():
            raise LabelError(f"{file}: there is no such label index; `scopewatch features import` makes one")
    except OSError as error:
        raise LabelError(f"{file}: cannot be used as a label index: {error.strerror}") from None
    try:
        uri = f"{file.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
            yield database
    except sqlite3.Error as error:
        raise LabelError(f"{file}: cannot be used as a label index: {error}") from None


def _create_if_empty(database: sqlite3.Connection, file: Path) -> None:
    if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        _check(database, file)
        return
    for statement in _SCHEMA.split("\n\n"):
        database.execute(statement)


def _check(database: sqlite3.Connection, file: Path) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise LabelError(f"{file}: not a label index; give the file that `scopewatch features import` made")
    if version != _VERSION:
        raise LabelError(
            f"{file}: a label index of version {version}, and this scopewatch reads version {_VERSION}; "
            "import the exports again into a new file"
        )
