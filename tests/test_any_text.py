"""No text, whoever writes it and wherever, forges a turn, leaves its segment or makes a pair unreadable."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from chat_templates import TEMPLATES, save
from conversations import CONVERSATIONS, WEATHER, Conversation, call, model, result, system, user
from reading import PLENTY, Reader, read_by, texts_of
from scopewatch.errors import InvalidRequest
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair, Segment, TemplateInputs, TokenisedPair, Turn

MARKS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_response>",
    "\ue000",
    "\ue001",
    "\ufdd0",
    "{{",
    "%s",
    "\0",
    '"',
    "\\",
]


@pytest.fixture(scope="module", params=TEMPLATES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader of every template."""
    return Reader(request.param, tmp_path_factory.mktemp("reader"))


def any_text(reader: Reader) -> st.SearchStrategy[str]:
    """Texts of all characters, halves of characters too, and of what means something to tokenizers and templates."""
    control = [*reader.template.special, *reader.template.ordinary]
    halves = [part for token in control for part in (token[: len(token) // 2], token[len(token) // 2 :])]
    return st.lists(st.text(max_size=6) | st.sampled_from([*control, *halves, *MARKS]), max_size=4).map("".join)


def control_read(reader: Reader, tokens: TokenisedPair) -> list[int]:
    """The control tokens among those that were read, in order."""
    return [index for index in tokens.ids.tolist() if index in reader.control]


@given(data=st.data())
@settings(max_examples=25)
def test_no_text_changes_which_tokens_are_control_tokens(reader: Reader, data: st.DataObject) -> None:
    """Whatever the texts, the same control tokens stand in the same order, and none of them is of a segment."""
    texts = st.tuples(*[any_text(reader)] * 5)
    first, second, third, prompt, response = data.draw(texts)
    history = (Turn("user", first), Turn("assistant", second), Turn("user", third), Turn("assistant", "x"))
    pair = Pair(prompt or "x", response, history)

    tokens = reader.read(pair)

    plain = reader.read(Pair("a", "b", tuple(Turn(turn.role, "a") for turn in history)))
    assert control_read(reader, plain) == control_read(reader, tokens)
    assert not np.isin(tokens.ids[tokens.segments > 0], reader.control).any()
    whole = {name: len(text) for name, text in texts_of(pair).items()}
    for segment, turn, start, end in zip(tokens.segments, tokens.turns, tokens.starts, tokens.ends, strict=True):
        name = {Segment.PROMPT: "prompt", Segment.RESPONSE: "response"}.get(segment, f"history[{turn}].content")
        assert not segment or 0 <= start < end <= whole[name]


@pytest.mark.parametrize("reader", [name for name, row in TEMPLATES.items() if not row.branches], indirect=True)
@given(data=st.data())
@settings(max_examples=15)
def test_no_text_changes_the_template(reader: Reader, data: st.DataObject) -> None:
    """The tokens that are of no segment are the same for all texts, where no token reaches over the border of a text."""
    words = any_text(reader).map(lambda text: f"a{text}b")
    *said, prompt, response = data.draw(st.tuples(*[words] * 4))
    history = tuple(Turn(role, text) for role, text in zip(("user", "assistant"), said, strict=True))

    outside = [
        tokens.ids[tokens.segments == Segment.TEMPLATE].tolist()
        for tokens in (
            reader.read(Pair(prompt, response, history)),
            reader.read(Pair("ab", "ab", (Turn("user", "ab"), Turn("assistant", "ab")))),
        )
    ]

    assert outside[1] == outside[0]


def json_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Values of JSON, numbers that JSON does not have among them."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
        max_leaves=4,
    )


@given(data=st.data())
@settings(max_examples=25)
def test_no_text_anywhere_makes_a_pair_unreadable(reader: Reader, data: st.DataObject) -> None:
    """In messages, calls, names, tools, documents and arguments of the template, any text is read, and forges nothing."""
    texts = any_text(reader)

    def conversation(text: st.SearchStrategy[str]) -> Conversation:
        one = data.draw(text)
        arguments = data.draw(st.dictionaries(text, json_of(text), max_size=2))
        spoken = call(arguments, name=data.draw(text), content=data.draw(text))
        answer = {**result(data.draw(text)), "name": data.draw(text), "tool_call_id": data.draw(text)}
        thought = model(data.draw(text), reasoning_content=data.draw(text), **{f"x{one}": data.draw(json_of(text))})
        tool = json.loads(json.dumps(WEATHER).replace("Oslo", "x"))
        tool["function"] |= {"name": data.draw(text), "description": data.draw(text), "more": data.draw(json_of(text))}
        return Conversation(
            data.draw(text),
            data.draw(text),
            (system(data.draw(text)), user(data.draw(text)), spoken, answer, user(one), thought),
            tools=(tool,) * data.draw(st.integers(0, 1)),
            documents=({"title": data.draw(text), "text": data.draw(text)},) * data.draw(st.integers(0, 1)),
            arguments={f"x{one}": data.draw(json_of(text))},
        )

    said = conversation(texts)
    tokens = reader.read(said.pair())

    assert not np.isin(tokens.ids[tokens.segments > 0], reader.control).any()
    assert read_by(reader.parsing, said.pair()).coverage.tokens


def test_half_a_character_is_read_as_a_character_that_is_none(reader: Reader) -> None:
    """What JSON can hold and UTF-8 cannot, half a pair of surrogates, has its place like any character."""
    broken, whole = (
        Pair(f"a{letter}b", f"{letter}c", (Turn("user", letter), Turn("assistant", "x"))) for letter in "\ud83d\ufffd"
    )
    one, other = reader.tokeniser.tokenise([broken, whole])

    assert isinstance(one, TokenisedPair)
    assert isinstance(other, TokenisedPair)
    assert other.ids.tolist() == one.ids.tolist()
    assert other.starts.tolist() == one.starts.tolist()


def test_a_tokenizer_that_makes_a_control_token_of_letters_makes_none_of_a_callers(tmp_path: Path) -> None:
    """Some vocabularies hold merges that end in a control token; then too a caller's letters stay letters.

    The ids of this one have gaps, too.
    """
    save("gemma 3", tmp_path)
    file = tmp_path / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    ids = {token["content"]: token["id"] for token in state["added_tokens"]}
    parts = ["<", "e", "o", "s", ">"]
    for number, part in enumerate(parts[1:], 1):
        made = "".join(parts[: number + 1])
        vocabulary.setdefault(made, ids.get(made, 10_000 + number))
        merges.insert(number - 1, ["".join(parts[:number]), part])
    file.write_text(json.dumps(state), encoding="utf-8")
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)
    pair = Pair("a<eos>b<eo", "x<eos><eos> y<eo", (Turn("user", "<eos>"), Turn("assistant", "<eos>")))

    tokens = read_by(tokeniser, pair)

    assert ids["<eos>"] not in tokens.ids.tolist()
    mine = tokens.segments == Segment.RESPONSE
    assert pair.response == "".join(
        pair.response[start:end] for start, end in zip(tokens.starts[mine], tokens.ends[mine], strict=True)
    )


def test_a_template_that_loses_track_of_texts_forges_nothing_of_them(tmp_path: Path) -> None:
    """What a template makes of a text in ways that cannot be followed is read as its letters, and the text is named."""
    written = {
        "'{}'.format(m.content)": "<|im_end|>",
        "m.content | wordwrap(99)": "<|im_end|>",
        "'<|im_' ~ m.content": "end|>",
    }
    for place, text in written.items():
        save("chatml", tmp_path)
        source = f"{{% for m in messages %}}<|im_start|>{{{{ {place} }}}}<|im_end|>{{% endfor %}}"
        (tmp_path / "chat_template.jinja").write_text(source)
        tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

        tokens = read_by(tokeniser, Pair(text, "x"))

        texts = tokeniser.token_texts(tokens.ids)
        assert ["<|im_start|>", "<|im_end|>"] == [one for one in texts if one in {"<|im_start|>", "<|im_end|>"}]
        assert "<|im_start|><|im_end|><|im_end|>x" == "".join(texts)
        assert ("~" in place) != ("prompt" in tokens.coverage.unlocated)


def test_of_control_tokens_that_begin_alike_the_longest_is_meant(tmp_path: Path) -> None:
    """A template's control token may begin with another one, or many with the same letters: it is read as it is."""
    save("chatml", tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    names = ["<a>", "<a>b", "<a>bc", "<ab>", "<b>", *(f"<unused{number}>" for number in range(120))]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    backend.save(str(tmp_path / "tokenizer.json"))
    source = "".join(names) + "<a>x<unused7<unused11>>{{ messages[0].content }}"
    (tmp_path / "chat_template.jinja").write_text(source)

    tokens = read_by(Tokeniser(tmp_path, max_tokens=PLENTY), Pair("hello", "<a>bc"))

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer.encode(source.replace("{{ messages[0].content }}", "hello"), add_special_tokens=False)
    assert expected == tokens.ids.tolist()[: len(expected)]
    assert not set(tokens.ids.tolist()[len(expected) :]) & set(tokenizer.convert_tokens_to_ids(names))


def test_added_tokens_for_words_and_lines_are_no_control_tokens(tmp_path: Path) -> None:
    """What a template writes between turns and callers write too, such as the word `user`, is read as transformers does."""
    save("chatml", tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("user", "\n", "assistant")])
    backend.save(str(tmp_path / "tokenizer.json"))
    said = Conversation("the user\n\nassistant", "user\n", (user("user"), model("\n")))

    tokens = read_by(Tokeniser(tmp_path, max_tokens=PLENTY), said.pair())

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer.apply_chat_template(said.before, add_generation_prompt=True, return_dict=False)
    assert expected + tokenizer.encode(said.response, add_special_tokens=False) == tokens.ids.tolist()


BAD_INPUTS: Mapping[str, Mapping[str, Any]] = {
    "template_inputs.date": {"inputs": TemplateInputs(date="2024-13-01")},
    "template_inputs.tools_json": {"inputs": TemplateInputs(tools="{}")},
    "template_inputs.documents_json": {"inputs": TemplateInputs(documents='["a"]')},
    "template_inputs.arguments_json": {"inputs": TemplateInputs(arguments="[1]")},
    "history[0].fields_json": {"history": (Turn("user", "a", "{"),)},
    "history[1].fields_json": {"history": (Turn("user", "a", '{"a": 1}'), Turn("assistant", "a", '{"a":' * 9999))},
    "history[1].role": {"history": (Turn("user", "a"), Turn("<|im_end|>", "a"))},
    "history[0].role": {"history": (Turn("", "a"),)},
}


@pytest.mark.parametrize(("field", "given"), BAD_INPUTS.items(), ids=BAD_INPUTS)
def test_what_is_no_input_is_refused_by_its_field(tmp_path: Path, field: str, given: Mapping[str, Any]) -> None:
    """A date that is none, JSON that is none or of another kind, nested without end, and a role that is none."""
    tokeniser = Reader("chatml", tmp_path).tokeniser
    good, refusal = tokeniser.tokenise([CONVERSATIONS["plain"].pair(), Pair("a", "b", **given)])

    assert isinstance(good, TokenisedPair)
    assert isinstance(refusal, InvalidRequest)
    assert [field] == [violation.field for violation in refusal.violations]


def test_a_role_makes_the_control_token_of_its_turns_and_no_other(tmp_path: Path) -> None:
    """Where a template makes control tokens of roles, one whose token ends a turn or a text is refused by its field."""
    tokeniser = Reader("phi 3", tmp_path).tokeniser
    for role in ("user", "tool", "assistant", "critic"):
        tokens = read_by(tokeniser, Pair("a", "b", (Turn(role, "x"), Turn("assistant", "y"))))
        texts = tokeniser.token_texts(tokens.ids)

        assert 3 == texts.count("<|end|>")
        assert (role != "critic") == (f"<|{role}|>" in texts)
    for role in ("end", "endoftext", "s"):
        (refusal,) = tokeniser.tokenise([Pair("a", "b", (Turn(role, "x"),))])

        assert isinstance(refusal, InvalidRequest)
        assert ["history[0].role"] == [violation.field for violation in refusal.violations]


DATED = ["llama 3.2", "granite"]


@pytest.mark.parametrize("name", DATED)
def test_the_day_is_what_settings_and_request_say(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids on any day; a request's day wins over the reader's; each day has its digest; `today` is the clock's."""
    reader = Reader(name, tmp_path)
    other = reader.made(date="2031-02-03")
    clock = reader.made(date="today")
    plain, dated = Pair("Why?", "Rain."), Pair("Why?", "Rain.", inputs=TemplateInputs(date="2031-02-03"))
    read = {}
    for day in ("2025-01-02", "2026-03-04"):
        monkeypatch.setattr("scopewatch.reader.text.conversation.today", lambda day=day: day)
        read[day] = [
            read_by(*each)
            for each in ((reader.tokeniser, plain), (reader.tokeniser, dated), (other, plain), (clock, plain))
        ]

    first, second = ([tokens.ids.tolist() for tokens in each] for each in read.values())
    assert first[:3] == second[:3]
    assert first[1] == first[2]
    assert len({*map(tuple, (first[0], first[1], first[3], second[3]))}) == 4
    digests = [tokens.rendering_digest for each in read.values() for tokens in each]
    assert digests[:3] == digests[4:7]
    assert len(set(digests)) == 4
    assert digests[0] == reader.tokeniser.rendering_digest
    assert digests[2] == other.rendering_digest


CHANGES: Mapping[str, Mapping[str, Any]] = {
    "tools": {"tools": (WEATHER,)},
    "documents": {"documents": ({"title": "a", "text": "b"},)},
    "arguments": {"arguments": {"enable_thinking": False}},
    "special_tokens": {"special_tokens": "parse"},
    "fold_system": {"fold_system": False},
    "bos": {"bos": "never"},
    "separator": {"separator": "\n"},
    "date": {"date": "2000-01-01"},
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_the_digest_holds_whatever_decides(tmp_path: Path, changed: Mapping[str, Any]) -> None:
    """Each setting of the rendering is in its digest, and so is what a request gives in its place."""
    reader = Reader("granite", tmp_path)
    other = reader.made(**changed)

    assert reader.tokeniser.rendering_digest != other.rendering_digest
    given = {name: json.dumps(value) for name, value in changed.items() if name in {"tools", "documents", "arguments"}}
    if given:
        plain, own = Pair("Why?", "Rain."), Pair("Why?", "Rain.", inputs=TemplateInputs(**given))
        assert other.rendering_digest == reader.read(own).rendering_digest
        assert read_by(other, plain).ids.tolist() == reader.read(own).ids.tolist()


def test_the_digest_holds_the_files(tmp_path: Path) -> None:
    """Another template, another vocabulary, another thing that the tokenizer puts before a text: another digest."""
    digests = set()
    for name in ("chatml", "smollm2", "chatml with bos"):
        reader = Reader(name, tmp_path / name)
        digests |= {reader.tokeniser.rendering_digest}
        (reader.directory / "chat_template.jinja").unlink()
        digests |= {reader.made().rendering_digest}
        assert reader.made().template_digest == ""
    assert len(digests) == 6
