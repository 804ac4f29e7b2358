"""Traced text: it is a text like any other, and every piece of it says what it was cut from."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scopewatch.reader.text.traced import Piece, Traced, formatted, joined, pieces_of, traced, traced_json

SOURCES = [
    "hello </think> world </think> x",
    " \n a\r\nb\x0bc\u2028 d\t",
    "aaa",
    "ÄßİǅŉΣ\u03c3",
    '"q" \\ \x7f \u00e9😀',
    "",
]
"""The texts that a caller wrote; a traced text of a test is made of parts of them and of a template's own words."""
texts = st.text(max_size=8) | st.sampled_from([*SOURCES, "</think>", "a", " ", "\n", "%s", "%"])
sources = st.integers(0, len(SOURCES) - 1)


@st.composite
def made(draw: st.DrawFn) -> Traced:
    """A traced text: whole sources, stretches of them, and words of nobody between them."""
    parts: list[str] = []
    for number in draw(st.lists(sources | st.none(), max_size=4)):
        if number is None:
            parts.append(draw(texts))
        else:
            cut = sorted(draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
            parts.append(
                traced(SOURCES[number], number)[slice(*cut)] if draw(st.booleans()) else traced(SOURCES[number], number)
            )
    return Traced.of(together := joined(parts), pieces_of(together))


def plain(value: Any) -> Any:
    """The same value of plain texts."""
    if isinstance(value, str):
        return str.__str__(value)
    return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value


def owners(text: str) -> list[tuple[int, int] | None]:
    """Of every character: the number of its source, and its place there."""
    found: list[tuple[int, int] | None] = [None] * len(text)
    for start, end, source, offset in pieces_of(text):
        assert 0 <= start < end <= len(text)
        found[start:end] = [(source, offset + i) for i in range(end - start)]
    return found


def check(result: Any, expected: Any) -> None:
    """The result is the plain text's, and every character of a piece stands in the source, in its place."""
    assert expected == result
    for text in [result] if isinstance(result, str) else result:
        pieces = pieces_of(text)
        assert all(one.end <= other.start for one, other in pairwise(pieces))
        for letter, owner in zip(text, owners(text), strict=True):
            assert owner is None or SOURCES[owner[0]][owner[1]].casefold() == letter.casefold()


def in_order(parts: Iterable[str], whole: Traced) -> bool:
    """Whether the characters of all parts are some of the whole's, in its order, whoever wrote them."""
    left = iter(zip(plain(whole), owners(whole), strict=True))
    return all(one in left for part in parts for one in zip(plain(part), owners(part), strict=True))


CUTS = {
    "strip": st.tuples() | st.tuples(st.none() | texts),
    "lstrip": st.tuples() | st.tuples(st.none() | texts),
    "rstrip": st.tuples() | st.tuples(st.none() | texts),
    "removeprefix": st.tuples(texts),
    "removesuffix": st.tuples(texts),
    "split": st.tuples()
    | st.tuples(st.none() | texts.filter(bool))
    | st.tuples(st.none() | texts.filter(bool), st.integers(-2, 3)),
    "rsplit": st.tuples()
    | st.tuples(st.none() | texts.filter(bool))
    | st.tuples(st.none() | texts.filter(bool), st.integers(-2, 3)),
    "splitlines": st.tuples() | st.tuples(st.booleans()),
    "partition": st.tuples(texts.filter(bool)),
    "rpartition": st.tuples(texts.filter(bool)),
    "__getitem__": st.tuples(st.slices(12)),
}


@pytest.mark.parametrize("method", CUTS)
@given(data=st.data())
@settings(max_examples=60)
def test_what_is_cut_out_knows_where_it_was(method: str, data: st.DataObject) -> None:
    """Each part is what the method of a plain text gives, and each of its characters keeps its source and its place."""
    text, arguments = data.draw(made()), data.draw(CUTS[method])
    result = getattr(text, method)(*arguments)

    check(result, getattr(plain(text), method)(*arguments))
    if method != "__getitem__" or arguments[0].step in {None, 1}:
        assert in_order([result] if isinstance(result, str) else result, text)


@given(text=made(), other=made(), prefix=texts)
def test_what_is_put_together_keeps_its_pieces(text: Traced, other: Traced, prefix: str) -> None:
    """Sums, products, joins, formats: all that is a caller's in the parts is a caller's in the whole."""
    check(text + other, plain(text) + plain(other))
    check(prefix + text, prefix + plain(text))
    check(text + prefix, plain(text) + prefix)
    assert owners(text) + owners(other) == owners(text + other)
    assert owners(prefix) + owners(text) == owners(prefix + text)
    check(text.join([other, prefix, text]), plain(text).join([plain(other), prefix, plain(text)]))
    assert owners(other) + owners(text) + owners(other) == owners(text.join([other, other]))
    assert list(text) == list(plain(text))
    assert owners(text) == [owner for letter in text for owner in owners(letter)]
    assert owners(text) * 2 == owners(text * 2) == owners(2 * text)
    check(text * 2, plain(text) * 2)


@given(text=made(), old=texts, new=made(), count=st.integers(-1, 3))
def test_what_is_replaced_leaves_the_rest_in_place(text: Traced, old: str, new: Traced, count: int) -> None:
    """`replace` gives what it gives for plain texts; what it puts in is of its own source."""
    check(text.replace(old, new, count), plain(text).replace(old, plain(new), count))
    if old and old not in text:
        assert owners(text) == owners(text.replace(old, new))
    if old and text == old:
        assert owners(new) == owners(text.replace(old, new))


@pytest.mark.parametrize("method", ["lower", "upper", "title", "capitalize"])
@given(text=made())
@settings(max_examples=60)
def test_another_case_is_the_same_text(method: str, text: Traced) -> None:
    """Letters keep their places, unless one letter becomes two."""
    result = getattr(text, method)()

    check(result, getattr(plain(text), method)())
    assert pieces_of(result) == (pieces_of(text) if len(result) == len(text) else ())


FORMS = ["%s", "<%s>", "%s and %s", "100%% of %s", "%-9s|%s", "%d: %s", "no mark", "%r %s", "%(a)s"]


@given(form=st.sampled_from(FORMS), text=made(), other=made(), number=st.integers())
def test_forms_are_filled_as_those_of_plain_texts(form: str, text: Traced, other: Traced, number: int) -> None:
    """`%` gives what it gives for plain texts, errors too; what a plain `%s` puts in keeps its place."""
    for values in (text, (text,), (text, other), (number, other), {"a": text}):
        bare = {"a": plain(text)} if isinstance(values, dict) else plain(values)
        for made_by in (form, Traced.of(form, ())):
            try:
                expected = form % bare
            except TypeError as error:
                with pytest.raises(type(error)):
                    formatted(made_by, values)
                continue
            check(formatted(made_by, values), expected)
    assert owners("<") + owners(text) + owners(">") == owners(formatted("<%s>", text))
    assert owners(text) + [None] * 5 + owners(other) == owners(formatted("%s and %s", (text, other)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | made() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(made() | texts | st.integers(), inner, max_size=3),
    max_leaves=8,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "ensure_ascii": st.booleans(),
        "indent": st.none() | st.integers(0, 4) | st.just("\t"),
        "separators": st.none() | st.sampled_from([(",", ":"), (" , ", " : ")]),
        "sort_keys": st.booleans(),
    },
)


@given(value=json_values, chosen=options)
def test_json_is_what_json_dumps_writes(value: Any, chosen: dict[str, Any]) -> None:
    """Any value under any options, errors too; and an escape is the letter's that it stands for."""
    try:
        expected = json.dumps(value, **chosen)
    except TypeError:
        with pytest.raises(TypeError):
            traced_json(value, **chosen)
        return
    result = traced_json(value, **chosen)

    assert expected == result
    letters = _letters(value)
    written = sum(len(json.dumps(letter, ensure_ascii=chosen.get("ensure_ascii", True))) - 2 for letter in letters)
    assert written == sum(owner is not None for owner in owners(result))


def _letters(value: Any) -> list[str]:
    """The letters of all traced texts of a value that a caller wrote."""
    if isinstance(value, str):
        return [letter for letter, owner in zip(plain(value), owners(value), strict=True) if owner is not None]
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [letter for item in items for letter in _letters(item)]


def test_each_character_of_an_escape_is_its_letters() -> None:
    """What stands for a quotation mark or a letter beyond ASCII has the place of that letter, all of it."""
    text = traced('a"é😀', 4)

    assert owners(traced_json({"k": text}, ensure_ascii=True)) == [
        *[None] * 7,
        *[(4, 0)],
        *[(4, 1)] * 2,
        *[(4, 2)] * 6,
        *[(4, 3)] * 12,
        *[None] * 2,
    ]


def test_a_text_made_without_pieces_is_nobodys() -> None:
    """Whatever makes a traced text out of another's type, such as a sandboxed `format`, makes a text like any other."""
    assert () == pieces_of(Traced("abc")) == pieces_of(Traced("abc")[1:])


def test_texts_of_any_depth_are_traced() -> None:
    """Keys and items of nested values are texts of the source, and what is no text stays what it was."""
    value = traced({"a": ["b", {"c": 1, "d": None}], "": ""}, 7)

    assert {"a": ["b", {"c": 1, "d": None}], "": ""} == value
    assert (Piece(0, 1, 7, 0),) == pieces_of(value["a"][0]) == pieces_of(next(iter(value)))
    assert () == pieces_of(value[""])
