"""What is read is what the model saw, whatever anybody writes: templates and conversations of every kind."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from chat_templates import TEMPLATES, save
from conversations import CONVERSATIONS, Conversation, Message, model, user
from reading import BYTE_OF_LETTER, PLENTY, Reader, check_places, read_by, texts_of, today
from scopewatch.errors import InvalidRequest, ReaderError
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair, Segment, TokenisedPair, Turn


@pytest.fixture(scope="module", params=TEMPLATES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader of every template."""
    return Reader(request.param, tmp_path_factory.mktemp("reader"))


def folded_once(messages: Sequence[Message]) -> list[Message]:
    """The documented rule: what the system says is put before what the user says next, an empty line between."""
    found: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] in {"system", "developer"}:
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            found.append({**message, "content": "\n\n".join(filter(None, [*waiting, message["content"]]))})
            waiting = []
        else:
            found.append(message)
    return [*found, *([user("\n\n".join(waiting))] if waiting else [])]


def folded_twice(messages: Sequence[Message]) -> list[Message]:
    """The documented rule where that is refused too: a user and an assistant by turns, whatever is neither the user's."""
    found: list[Message] = []
    for message in folded_once(messages):
        role = "assistant" if message["role"] == "assistant" else "user"
        if found and found[-1]["role"] == role:
            found[-1]["content"] = "\n\n".join(filter(None, [found[-1]["content"], message["content"]]))
        else:
            found.append({"role": role, "content": message["content"]})
    return found if found[0]["role"] == "user" else [user(""), *found]


@pytest.mark.parametrize("said", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_what_is_read_is_what_transformers_renders(reader: Reader, said: Conversation) -> None:
    """Token ids are those of `apply_chat_template` on all before the answer, with its generation prompt, and then the
    answer's own; messages that the template refuses are folded by the documented rule, and the coverage says so.
    """
    tokens = read_by(reader.parsing, said.pair(today()))

    folds = []
    for folded in (list, folded_once, folded_twice):
        try:
            folds.append(reader.rendered(folded(said.before), said))
        except Exception:
            folds.append(None)
    expected = next(ids for ids in folds if ids is not None)
    assert expected + reader.generated(said.response) == tokens.ids.tolist()
    assert (folds[0] is None) == tokens.coverage.folded


@pytest.mark.parametrize("said", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_text_is_text_and_otherwise_as_transformers_sanitizes(reader: Reader, said: Conversation) -> None:
    """Where text is text, ids are those of transformers' `sanitize_control_tokens`, and each token is in its place."""
    pair = said.pair(today())
    tokens = reader.read(pair)

    if not tokens.coverage.folded and not any(token in str(said) for token in reader.template.special):
        assert read_by(reader.parsing, pair).ids.tolist() == tokens.ids.tolist()
    check_places(reader, pair, tokens)


def spelling_out(reader: Reader) -> Conversation:
    """A conversation in which every text spells every control token of a reader."""
    names = [*reader.template.special, *reader.template.ordinary]
    told = "a" + " b".join(names) + "".join(names) + "\n" + "\n".join(names) + "c"
    return Conversation(told, told, (user(told), model(told), user(told), model(told)), arguments={"custom": told})


def test_control_tokens_in_texts_are_text(reader: Reader) -> None:
    """Whatever control tokens texts spell, the control tokens that are read are those of texts that spell none."""
    said = spelling_out(reader)
    tokens = reader.read(said.pair())
    plain = reader.read(Pair("a", "b", tuple(Turn(turn["role"], "a") for turn in said.history)))

    def control(read: TokenisedPair) -> list[int]:
        return [index for index in read.ids.tolist() if index in reader.control]

    assert control(plain) == control(tokens)
    assert not np.isin(tokens.ids[tokens.segments > 0], reader.control).any()
    check_places(reader, said.pair(), tokens)


@pytest.mark.parametrize("reader", [name for name, row in TEMPLATES.items() if row.pieces == "bytes"], indirect=True)
def test_ids_are_those_of_sanitized_control_tokens(reader: Reader) -> None:
    """Where texts spell control tokens, ids are those of transformers' `sanitize_control_tokens`.

    It cuts the text at each of them. Tokenizers that are not of bytes make other tokens of the parts than of the whole.
    """
    said = spelling_out(reader)
    reader.tokenizer.chat_control_tokens = reader.tokenizer.convert_ids_to_tokens(reader.control)

    expected = reader.rendered(said.before, said, sanitize_control_tokens=True)

    tokens = reader.read(said.pair(today()))
    answer = np.flatnonzero(tokens.segments == Segment.RESPONSE)
    assert expected == tokens.ids.tolist()[: answer[0]]


def test_thoughts_that_a_template_leaves_out_are_named(tmp_path: Path) -> None:
    """An earlier answer's thought that the model did not see is not read, and the coverage names the text."""
    for name in ("qwen 3", "r1"):
        reader = Reader(name, tmp_path / name)
        said = CONVERSATIONS["thought in history"].pair()
        tokens = reader.read(said)
        mine = tokens.segments == Segment.HISTORY
        read = "".join(
            said.history[turn].content[start:end]
            for turn, start, end in zip(tokens.turns[mine], tokens.starts[mine], tokens.ends[mine], strict=True)
        )

        assert ("history[1].content",) == tokens.coverage.shortened
        assert "Hi" + "\n\n" * (name == "r1") + "Hello" == read


def test_what_a_template_refuses_is_refused_where_it_is_not_to_be_folded(tmp_path: Path) -> None:
    """With `fold_system: false` the pair is refused, by the field to blame and in the template's own words."""
    reader = Reader("gemma 2", tmp_path)
    unfolded = reader.made(fold_system=False)
    for name, words in {"system": "no system role here", "user twice": "roles must alternate"}.items():
        (refusal,) = unfolded.tokenise([CONVERSATIONS[name].pair()])

        assert isinstance(refusal, InvalidRequest)
        assert [("history", f"the reader's chat template refuses it: {words}")] == [
            (violation.field, violation.description) for violation in refusal.violations
        ]


def test_a_refused_pair_does_not_touch_its_neighbours(tmp_path: Path) -> None:
    """In one call, good pairs come back in their places beside a refused one."""
    tokeniser = Reader("gemma 2", tmp_path).made(fold_system=False)
    pairs = [CONVERSATIONS[name].pair() for name in ("plain", "system", "history")]

    first, between, last = tokeniser.tokenise(pairs)

    assert isinstance(between, InvalidRequest)
    assert [tokeniser.tokenise([pair])[0].ids.tolist() for pair in (pairs[0], pairs[2])] == [
        first.ids.tolist(),
        last.ids.tolist(),
    ]


REWRITES = {
    "drops a message": "{% for m in messages %}{% if not loop.first %}[{{ m.content }}]{% endif %}{% endfor %}",
    "reverses": "{% for m in messages | reverse %}[{{ m.content }}]{% endfor %}",
    "repeats": "{% for m in messages %}[{{ m.content }}{{ m.content * 2 }}]{% endfor %}",
    "shouts": "{% for m in messages %}[{{ m.content | upper }}]{% endfor %}",
    "shortens": "{% for m in messages %}[{{ m.content[:4] }}]{% endfor %}",
    "looks inside": "{% for m in messages %}[{{ m.content | replace('e', 'xx') }}{{ '!' if 'a' in m.content }}]{% endfor %}",
    "takes apart": "{% for m in messages %}{% for w in m.content.split() %}[{{ w }}]{% endfor %}{% endfor %}",
    "joins": "{{ messages | map(attribute='content') | join('] [') }}{{ ', '.join([messages[0].content, 'x']) }}",
    "sets": "{% set all %}{% for m in messages %}{{ m.content }}\n{% endfor %}{% endset %}{{ all | trim | indent(2) }}",
    "indents": "{% for m in messages %}{{ m.content | indent('> ', true, true) }}{{ m.content | indent }}{% endfor %}",
    "fills a form": "{% for m in messages %}{{ '%s: %s%%' % (m.role, m.content) }}{{ '<%s>' | format(m.content) }}{% endfor %}",
    "another form": "{% for m in messages %}{{ '{}: {}'.format(m.role, m.content) }}{{ m.content.format() }}{% endfor %}",
    "letters": "{% for m in messages %}{% for c in m.content %}{{ c }}-{% endfor %}{% endfor %}",
    "escapes": "{% for m in messages %}{{ m.content | e }}{{ m.content | title }}{{ m.content | wordwrap(3) }}{% endfor %}",
    "looks up": "{% set d = {'user': 'U', 'assistant': 'A'} %}{% for m in messages %}{{ d[m.role] ~ m['content'][::-1] }}{% endfor %}",
    "calls": "{% macro t(m) %}<{{ caller(m) }}>{% endmacro %}{% for m in messages %}{% call(x) t(m) %}{{ x.content }}{% endcall %}{% endfor %}",
    "filters": "{% for m in messages %}{% filter trim %} {{ m.content }} {% endfilter %}{% endfor %}",
    "puts together": "{% for m in messages %}{{ '<' ~ m.role ~ m.content ~ 1 ~ '>' }}{% endfor %}",
    "breaks": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
}  # fmt: skip


FOLLOWED = (
    *("reverses", "repeats", "shouts", "takes apart", "joins", "sets", "indents"),
    *("fills a form", "letters", "calls", "filters", "puts together"),
)
"""Those of which all that a caller wrote is located."""


@pytest.mark.parametrize(("name", "template"), REWRITES.items(), ids=REWRITES)
def test_whatever_a_template_does_with_texts_they_are_read(tmp_path: Path, name: str, template: str) -> None:
    """Ids are transformers'; each token that is scored is in its place, and what is not located is named."""
    directory = save("chatml", tmp_path)
    (directory / "chat_template.jinja").write_text(template)
    tokeniser = Tokeniser(directory, max_tokens=PLENTY)
    texts = ["hello there\nyou", "é ok ", " why\n\nnot"]
    pair = Pair(texts[2], "world", (Turn("user", texts[0]), Turn("assistant", texts[1])))

    tokens = read_by(tokeniser, pair)

    tokenizer = AutoTokenizer.from_pretrained(directory)
    messages = [user(texts[0]), model(texts[1]), user(texts[2])]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids + tokenizer.encode("world", add_special_tokens=False) == tokens.ids.tolist()
    located = texts_of(pair)
    found = dict.fromkeys(located, "")
    for written, segment, turn, start, end in zip(
        tokenizer.convert_ids_to_tokens(tokens.ids.tolist()),
        tokens.segments,
        tokens.turns,
        tokens.starts,
        tokens.ends,
        strict=True,
    ):
        if segment:
            field = {Segment.PROMPT: "prompt", Segment.RESPONSE: "response"}.get(segment, f"history[{turn}].content")
            cut, spelled = located[field][start:end], bytes(BYTE_OF_LETTER[letter] for letter in written)
            assert any(one.encode() in spelled or spelled in one.encode() for one in (cut, cut.upper())), (cut, spelled)
            found[field] += cut
    assert {field for field, cut in found.items() if not cut} == set(tokens.coverage.unlocated)
    assert name not in FOLLOWED or ((), ()) == (tokens.coverage.unlocated, tokens.coverage.shortened)


def test_a_token_of_two_copies_of_a_text_is_of_the_first(tmp_path: Path) -> None:
    """Where a template writes a text twice, a token over the border has the place in which it begins, and not nothing."""
    directory = save("chatml", tmp_path)
    (directory / "chat_template.jinja").write_text("{{ messages[0].content * 2 }}|")

    tokens = read_by(Tokeniser(directory, max_tokens=PLENTY), Pair("e the th", "x"))

    mine = tokens.segments == Segment.PROMPT
    assert (tokens.starts[mine] < tokens.ends[mine]).all()


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ({"a": 1}, '{"a": 1}'),
        ("", "{}"),
        (None, "{}"),
        ("{not JSON", '"{not JSON"'),
        ("[1]", "[1]"),
    ],
)
def test_arguments_of_calls_are_what_templates_take(tmp_path: Path, arguments: object, kept: str) -> None:
    """Serving engines give templates the arguments of a call as a mapping, and no empty list of calls."""
    source = (
        "{% for m in messages %}{% if 'tool_calls' in m %}{% for c in m.tool_calls %}"
        "{{ c.function.arguments | tojson }}{% endfor %};{% endif %}{% endfor %}"
    )
    save("chatml", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source)
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    turns = [Turn("assistant", "", json.dumps({"tool_calls": each})) for each in (calls, [], [7])]
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

    (tokens,) = tokeniser.tokenise([Pair("", "x", (Turn("user", "a"), turns[0], turns[1], Turn("user", "b")))])

    assert isinstance(tokens, TokenisedPair)
    decoded = AutoTokenizer.from_pretrained(tmp_path).decode(tokens.ids)
    assert f"{kept};x" == decoded


def test_a_template_in_the_processors_file_is_read(tmp_path: Path) -> None:
    """Multimodal models may keep it in `chat_template.json`; without it their conversations would be read as plain text."""
    save("chatml", tmp_path)
    template = tmp_path / "chat_template.jinja"
    expected = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair("Why?", "So.")])[0]
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()

    found = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair("Why?", "So.")])[0]
    (tmp_path / "chat_template.json").write_text('{"template": "x"}')

    assert isinstance(expected, TokenisedPair)
    assert isinstance(found, TokenisedPair)
    assert expected.ids.tolist() == found.ids.tolist()
    with pytest.raises(ReaderError, match=r"chat_template\.json: chat_template: expected a text"):
        Tokeniser(tmp_path, max_tokens=PLENTY)
