"""Tokens that a caller gives are read as they are, and their places are found by decoding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations import CONVERSATIONS
from reading import Reader, spelling
from scopewatch.errors import InvalidRequest
from scopewatch.types import Pair, Segment, TemplateInputs, TokenisedPair, Turn

TEXTS = [
    "The answer is 42, perhaps.",
    " é 👩🏽‍🚀\n\nfin ",
    "你好,世界",
    "a\u0301\u0323",
    "",
    "<think>\nhm\n</think>\n\nyes",
]


@pytest.fixture(scope="module", params=["llama 3.1", "r1", "gemma 2", "mistral", "phi 3", "zephyr"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Readers of each kind of tokenizer."""
    return Reader(request.param, tmp_path_factory.mktemp("reader"))


def places(tokens: TokenisedPair, segment: Segment) -> list[tuple[int, int]]:
    """The start and end of every token of a segment."""
    mine = tokens.segments == segment
    return list(zip(tokens.starts[mine].tolist(), tokens.ends[mine].tolist(), strict=True))


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_an_answer_are_read_as_its_text_is(reader: Reader, text: str) -> None:
    """Given the tokens that the text is made of, the reading is the text's, with or without the text beside them."""
    plain = reader.read(Pair("why?", text))
    ids = tuple(reader.generated(text))

    for pair in (Pair("why?", text, response_token_ids=ids), Pair("why?", "", response_token_ids=ids)):
        exact = reader.read(pair)

        assert plain.ids.tolist() == exact.ids.tolist()
        # Some tokenizers put a space before a text, and take it away again.
        if reader.template.pieces not in {"words", "characters behind ▁"}:
            assert places(plain, Segment.RESPONSE) == places(exact, Segment.RESPONSE)
        elif pair.response:
            last = places(exact, Segment.RESPONSE)[-9:]
            assert places(plain, Segment.RESPONSE)[-len(last) :] == last


@given(data=st.data())
@settings(max_examples=40)
def test_any_tokens_are_read_and_each_has_a_place(reader: Reader, data: st.DataObject) -> None:
    """Whatever tokens are given, they are read as they are; places go on in order and are within the decoded text; each
    that is not special is scored.
    """
    ids = data.draw(st.lists(st.integers(0, reader.tokeniser.size - 1), min_size=1, max_size=12))
    tokens = reader.read(Pair("why?", "", response_token_ids=tuple(ids)))

    assert ids == tokens.ids.tolist()[-len(ids) :]
    heard = [one for one in ids if one not in reader.control]
    decoded = reader.tokenizer.backend_tokenizer.decode(heard, skip_special_tokens=True)
    mine = tokens.segments[-len(ids) :] == Segment.RESPONSE
    starts, ends = tokens.starts[-len(ids) :][mine], tokens.ends[-len(ids) :][mine]
    assert (starts < ends).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    assert set(range(len(decoded))) == {
        place for start, end in zip(starts, ends, strict=True) for place in range(start, end)
    }


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20))
@settings(max_examples=40)
def test_parts_of_a_character_have_its_place(reader: Reader, text: str) -> None:
    """Each token's place is the characters of which it holds a byte."""
    ids = reader.generated(text)
    tokens = reader.read(Pair("why?", "", response_token_ids=tuple(ids))) if ids else None
    if tokens is None:
        return
    decoded = reader.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
    written = [spelling(reader, token) for token in reader.tokenizer.convert_ids_to_tokens(ids)]
    if b"".join(written) != decoded.encode():
        return  # With a space that the tokenizer put there.
    owner = [place for place, letter in enumerate(decoded) for _ in letter.encode()]
    expected, at = [], 0
    for one in written:
        expected.append((owner[at], owner[at + len(one) - 1] + 1))
        at += len(one)

    assert expected == places(tokens, Segment.RESPONSE)


def test_the_serving_engines_prompt_is_read_in_place_of_a_rendering(reader: Reader) -> None:
    """The tokens of all before the answer are read as they are, special ones among them; the prompt is found in them."""
    said = CONVERSATIONS["history"]
    plain = reader.read(said.pair())
    ids = reader.rendered(said.before, said)

    exact = reader.read(Pair(said.prompt, said.response, (Turn("user", "ignored"),), prompt_token_ids=tuple(ids)))

    assert plain.ids.tolist() == exact.ids.tolist()
    cut = [said.prompt[start:end] for start, end in places(exact, Segment.PROMPT)]
    assert said.prompt == "".join(cut)
    assert places(plain, Segment.RESPONSE) == places(exact, Segment.RESPONSE)
    assert () == exact.coverage.unlocated
    assert plain.rendering_digest != exact.rendering_digest


def test_a_prompt_that_is_not_in_its_tokens_is_not_located(reader: Reader) -> None:
    """The tokens are read all the same, none of them is the prompt's, and the coverage says so."""
    ids = tuple(reader.generated("hello world"))
    exact = reader.read(Pair("goodbye", "yes", prompt_token_ids=ids))

    assert list(ids) == exact.ids.tolist()[: len(ids)]
    assert ("prompt",) == exact.coverage.unlocated
    assert not (exact.segments == Segment.PROMPT).any()


def test_of_several_places_the_last_is_the_prompts(reader: Reader) -> None:
    """What was said before may hold the words of the prompt; the prompt is what stands last."""
    ids = tuple(reader.generated("hello or hello again"))
    exact = reader.read(Pair("hello", "yes", prompt_token_ids=ids))

    mine = np.flatnonzero(exact.segments == Segment.PROMPT)
    before = len(reader.generated("hello or"))
    assert before <= mine.min()
    assert mine.max() < len(ids)


def test_without_a_prompt_all_of_its_tokens_are_it(reader: Reader) -> None:
    """What the tokens decode to, special ones aside, is the prompt."""
    ids = tuple(reader.generated("hello world"))
    exact = reader.read(Pair("", "yes", prompt_token_ids=ids))

    assert len(ids) - 1 == exact.coverage.prompt_tokens


def test_an_answer_that_is_not_in_its_tokens_is_refused(reader: Reader) -> None:
    """The text and the tokens must go together: otherwise nobody knows what was to be scored."""
    ids = tuple(reader.generated("hello world"))
    inside, refusal = reader.tokeniser.tokenise(
        [Pair("why?", "world", response_token_ids=ids), Pair("why?", "word", response_token_ids=ids)]
    )

    assert isinstance(inside, TokenisedPair)
    assert "world" == "".join("world"[start:end] for start, end in places(inside, Segment.RESPONSE))
    assert isinstance(refusal, InvalidRequest)
    assert ["response"] == [violation.field for violation in refusal.violations]


@pytest.mark.parametrize("name", ["prompt_token_ids", "response_token_ids"])
def test_an_id_that_the_reader_has_not_is_named(reader: Reader, name: str) -> None:
    """The refusal names the place of the id and how many tokens there are."""
    size = reader.tokeniser.size
    for wrong in (size, -1):
        (refusal,) = reader.tokeniser.tokenise([Pair("why?", "", **{name: (0, 1, wrong)})])

        assert isinstance(refusal, InvalidRequest)
        assert f"{name}[2]" == refusal.violations[0].field
        assert str(size) in str(refusal)


def test_what_a_template_is_given_does_not_matter_beside_exact_tokens(reader: Reader) -> None:
    """No template is asked, so a day that is none is no mistake, and is not in the digest."""
    ids = tuple(reader.generated("hello world"))
    plain, odd = (
        reader.read(Pair("", "yes", prompt_token_ids=ids, inputs=inputs))
        for inputs in (TemplateInputs(), TemplateInputs(date="never", tools="{"))
    )

    assert plain.ids.tolist() == odd.ids.tolist()
    assert plain.rendering_digest == odd.rendering_digest
