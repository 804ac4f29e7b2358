"""Pairs as programs hold them: objects, tuples, or the rows of a data frame."""

from collections.abc import Iterable, Mapping
from typing import Any

from scopewatch.errors import DataError
from scopewatch.pairs.columns import Columns
from scopewatch.pairs.conversation import pair_of
from scopewatch.types import Pair

_EXPECTED = "expected an object with response and, if there is one, prompt; or the texts (prompt, response)"
_MOST_TOLD = 5


def pairs_from(given: Any) -> list[Pair]:
    """The pairs, in the order in which they were given.

    Args:
        given: Objects with the names that files have (`prompt`, `response`, `messages`, ...), tuples of a prompt and a
            response, or a data frame whose columns have these names.

    Raises:
        DataError: Names what is wrong with each of the first few pairs that are none.
    """
    pairs, wrong = [], []
    for number, row in enumerate(_rows(given)):
        try:
            pairs.append(pair_of(_as_object(row), Columns()))
        except ValueError as error:
            wrong.append(f"pairs[{number}]: {error}")
    if wrong:
        more = [f"and {len(wrong) - _MOST_TOLD} more"] if len(wrong) > _MOST_TOLD else []
        raise DataError("\n".join([*wrong[:_MOST_TOLD], *more]))
    return pairs


def _rows(given: Any) -> Iterable[object]:
    if isinstance(given, str | bytes | Mapping):
        raise DataError("pairs: expected several; write [...] around a single one")
    if hasattr(given, "to_pylist"):  # pyarrow
        return list(given.to_pylist())
    if hasattr(given, "to_dicts"):  # polars
        return list(given.to_dicts())
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # pandas, for which what is missing is not a number
        return [{name: cell for name, cell in row.items() if cell == cell} for row in given.to_dict("records")]  # noqa: PLR0124
    if not isinstance(given, Iterable):
        raise DataError(f"pairs: {_EXPECTED}, and several of them, not {type(given).__name__}")
    return given


def _as_object(row: object) -> object:
    """A row as `pair_of` takes it."""
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, tuple | list) and len(row) == 2 and all(isinstance(text, str) for text in row):
        return {"prompt": row[0], "response": row[1]}
    raise ValueError(f"{_EXPECTED}, not {type(row).__name__}")
