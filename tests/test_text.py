"""The tokeniser: which tokens the reader reads, where each stands in the caller's text, what is left out."""

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conftest import GEMMA_TEMPLATE, House, gemma_tokenizer
from families import save_tokenizer
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.reader.text import Tokeniser
from scopewatch.types import Pair, Segment, TokenisedPair, Turn

PLENTY = 1_000_000
Place = tuple[int, int, int, int]
"""Segment, turn, start and end of a token."""
OUTSIDE: Place = (Segment.TEMPLATE, 0, 0, 0)


@dataclass(frozen=True)
class Placed:
    """What a form makes of one turn's content."""

    turn: int
    text: str
    cut: int
    """Characters left out at its start."""


Form = Callable[[Sequence[Turn]], list[str | Placed]]
"""How a conversation is written for a reader, as this test knows it: the form's own text and the contents in it."""


def verbatim(turn: int, content: str) -> Placed:
    return Placed(turn, content, 0)


def trimmed(turn: int, content: str, characters: str | None = None) -> Placed:
    return Placed(turn, content.strip(characters), len(content) - len(content.lstrip(characters)))


def as_gemma(turns: Sequence[Turn]) -> list[str | Placed]:
    """The system's words stand before the first user's, as Gemma 3 has them."""
    pieces: list[str | Placed] = ["<bos>"]
    for index, turn in enumerate(turns):
        if turn.role == "system":
            pieces += ["<start_of_turn>user\n", verbatim(index, turn.content), "\n\n"]
            continue
        if index != 1 or turns[0].role != "system":
            pieces += [f"<start_of_turn>{'model' if turn.role == 'assistant' else turn.role}\n"]
        pieces += [trimmed(index, turn.content), "<end_of_turn>\n"]
    return pieces


def as_llama(turns: Sequence[Turn]) -> list[str | Placed]:
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    pieces: list[str | Placed] = ["<|begin_of_text|>", header("system"), dates]
    if turns[0].role != "system":
        pieces += ["<|eot_id|>"]
    for index, turn in enumerate(turns):
        if turn.role != "system":
            pieces += [header(turn.role)]
        pieces += [trimmed(index, turn.content), "<|eot_id|>"]
    return pieces


def as_qwen2(turns: Sequence[Turn]) -> list[str | Placed]:
    pieces: list[str | Placed] = []
    if turns[0].role != "system":
        pieces += ["<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"]
    for index, turn in enumerate(turns):
        pieces += [f"<|im_start|>{turn.role}\n", verbatim(index, turn.content), "<|im_end|>\n"]
    return pieces


def as_qwen3(turns: Sequence[Turn]) -> list[str | Placed]:
    """The last answer comes after an empty thought, without the empty lines before it."""
    pieces = [piece for turn in enumerate(turns) for piece in (f"<|im_start|>{turn[1].role}\n", turn, "<|im_end|>\n")]
    placed = [piece if isinstance(piece, str) else verbatim(piece[0], piece[1].content) for piece in pieces]
    answer = turns[-1].content
    cut = len(answer) - len(answer.lstrip("\n"))
    return [*placed[:-2], "<think>\n\n</think>\n\n", Placed(len(turns) - 1, answer[cut:], cut), placed[-1]]


def as_plain(turns: Sequence[Turn]) -> list[str | Placed]:
    pieces: list[str | Placed] = []
    for index, turn in enumerate(turns):
        if turn.content:
            pieces += ["\n\n", verbatim(index, turn.content)] if pieces else [verbatim(index, turn.content)]
    return pieces


@dataclass(frozen=True)
class Voice:
    """A tokeniser under test beside transformers' own tokenizer of the same files."""

    directory: Path
    tokeniser: Tokeniser
    tokenizer: PreTrainedTokenizerFast
    form: Form

    @property
    def chat(self) -> bool:
        return self.form is not as_plain

    @property
    def bos(self) -> int | None:
        return self.tokenizer.bos_token_id

    @property
    def special(self) -> list[str]:
        """All special tokens; the unknown one is no such."""
        added = self.tokenizer.added_tokens_decoder.values()
        return [token.content for token in added if token.special and token.content != "<unk>"]

    @property
    def byte_level(self) -> bool:
        return self.tokenizer.convert_tokens_to_ids("Ġ") not in {None, self.tokenizer.unk_token_id}

    @property
    def system(self) -> bool:
        """Whether its template takes a system turn."""
        return self.form in {as_llama, as_qwen2, as_qwen3} or "system" in self.tokenizer.chat_template

    def spell(self, text: str) -> str:
        """A text with its accents composed, where the tokenizer composes them before anything else."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return unicodedata.normalize("NFC", text) if isinstance(normalizer, normalizers.NFC) else text

    def pair(self, prompt: str, response: str, history: Sequence[Turn] = ()) -> Pair:
        turns = tuple(Turn(turn.role, self.spell(turn.content)) for turn in history)
        return Pair(self.spell(prompt), self.spell(response), turns)

    def read(self, pair: Pair) -> TokenisedPair:
        (tokens,) = self.tokeniser.tokenise([pair])
        assert isinstance(tokens, TokenisedPair), tokens
        return tokens


VOICES: dict[str, tuple[str, Form]] = {
    "chat": ("", as_gemma),
    "plain": ("", as_plain),
    "gemma3": ("gemma3", as_gemma),
    "llama": ("llama", as_llama),
    "qwen2": ("qwen2", as_qwen2),
    "qwen3": ("qwen3", as_qwen3),
    "qwen plain": ("qwen2", as_plain),
}


@pytest.fixture(scope="module", params=VOICES)
def voice(
    request: pytest.FixtureRequest, house: House, plain_house: House, tmp_path_factory: pytest.TempPathFactory
) -> Voice:
    """The tokenizers of each family with its chat template, and two byte-level ones without any, one without BOS."""
    family, form = VOICES[request.param]
    if family:
        directory = tmp_path_factory.mktemp(family)
        save_tokenizer(family, directory, chat=form is not as_plain)
    else:
        directory = (plain_house if form is as_plain else house).reader
    return Voice(directory, Tokeniser(directory, max_tokens=PLENTY), AutoTokenizer.from_pretrained(directory), form)


def places(tokens: TokenisedPair) -> list[Place]:
    columns = (tokens.segments, tokens.turns, tokens.starts, tokens.ends)
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


def rendered(voice: Voice, pair: Pair) -> tuple[str, list[tuple[int, int, Segment, int, int]]]:
    """The text the reader sees, and (start, end, segment, turn, characters trimmed before it) of the caller's texts."""
    turns = [*pair.history, Turn("user", pair.prompt), Turn("assistant", pair.response)]
    segments = [(Segment.HISTORY, i) for i in range(len(pair.history))] + [(Segment.PROMPT, 0), (Segment.RESPONSE, 0)]
    text, spans = "", []
    for piece in voice.form(turns):
        if isinstance(piece, Placed) and piece.text:
            spans.append((len(text), len(text) + len(piece.text), *segments[piece.turn], piece.cut))
        text += piece.text if isinstance(piece, Placed) else piece
    return text, spans


def _byte_of_letter() -> dict[str, int]:
    """The byte each letter of a byte-level vocabulary stands for, as GPT-2 defined it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()


def spelled_out(tokens: list[str], text: str, *, byte_level: bool) -> list[tuple[int, int]]:
    """Where each token stands in a text, found without offsets: by writing the tokens' bytes one after another."""
    widths = [len(character.encode()) for character in text]
    character_of_byte = np.repeat(np.arange(len(text)), widths).tolist()
    first_byte = [0, *np.cumsum(widths).tolist()]
    raw = text.encode()
    position, found = 0, []
    for token in tokens:
        start = character_of_byte[position]
        if byte_level:
            spelling = bytes(BYTE_OF_LETTER[letter] for letter in token)
        elif len(token) == 6 and token.startswith("<0x"):
            spelling = bytes([int(token[3:5], 16)])
        else:
            # ▁ is written for a space and for itself.
            there = text[start : start + len(token)]
            assert there.replace(" ", "▁") == token.replace(" ", "▁")
            spelling = raw[position : first_byte[start + len(token)]]
        assert raw[position : position + len(spelling)] == spelling
        position += len(spelling)
        found.append((start, character_of_byte[position - 1] + 1))
    assert position == len(raw)
    return found


def token_places(voice: Voice, pair: Pair, ids: list[int]) -> list[tuple[int, int]]:
    """Where each token stands in the text the reader sees; nowhere for a BOS that the text does not have."""
    text, _ = rendered(voice, pair)
    tokens = voice.tokenizer.convert_ids_to_tokens(ids)
    added = [] if voice.chat or voice.bos is None else [(-1, -1)]
    return added + spelled_out(tokens[len(added) :], text, byte_level=voice.byte_level)


def expected_places(voice: Voice, pair: Pair, ids: list[int]) -> list[Place]:
    """Every token's place, worked out from the tokens' spelling and the template as the test knows it."""
    _, spans = rendered(voice, pair)
    special = set(voice.tokenizer.convert_tokens_to_ids(voice.special))
    found = []
    for index, (start, end) in zip(ids, token_places(voice, pair, ids), strict=True):
        inside = [span for span in spans if start < span[1] and end > span[0] and index not in special]
        if not inside or not found:  # the first token of all is not scored
            found.append(OUTSIDE)
            continue
        first, last, segment, turn, trimmed = inside[-1]
        found.append((int(segment), turn, max(start, first) - first + trimmed, min(end, last) - first + trimmed))
    return found


TEXTS = {
    "ascii": "The answer is 42, perhaps.",
    "emoji": "well 👩🏽‍🚀 and 👨‍👩‍👧‍👦 🇸🇪!",
    "combining": "e\u0301a\u0300 \u0915\u094d\u0937 o\u0302\u0323",
    "cjk": "你好,世界。これは日本語です 한국어",
    "rtl": "שלום \u202eabc\u202c مرحبا",
    "spaces around": "   hello world  ",
    "newlines around": "\n\n\thello\r\n\nworld\n \n",
    "tabs": "a\tb\t\tc",
    "other spaces": "\u00a0\u2003x\u3000\u2028y\u0085\x1f",
    "underline of sentencepiece": "a▁b ▁ c",
    "private marks": "\ue0000\ue001 and \ue0001\ue001",
    "byte spelled out": "a 0x41> b",
    "empty": "",
    "blank": " \n ",
    "one letter": "a",
    "special tokens": "a<end_of_turn>b<bos><unk> <start_of_turn>user\nc",
    "long": "the quick brown fox 🦊 does not know " * 500,
}
any_text = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    | st.sampled_from([*list(TEXTS.values())[:-1], "hello world", " ", "\n"]),
    max_size=4,
).map("".join)
history_of = st.lists(st.tuples(any_text, any_text), max_size=2).map(
    lambda said: tuple(turn for user, model in said for turn in (Turn("user", user), Turn("assistant", model)))
)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_every_token_knows_its_place_in_the_callers_text(voice: Voice, text: str) -> None:
    """Segment, turn, start and end of each token are those found by spelling the tokens out."""
    pair = voice.pair(text, text + "x", (Turn("user", text), Turn("assistant", text)))

    tokens = voice.read(pair)

    assert expected_places(voice, pair, tokens.ids.tolist()) == places(tokens)


@given(prompt=any_text, response=any_text, history=history_of)
@settings(max_examples=60, deadline=None)
def test_places_hold_for_any_text(voice: Voice, prompt: str, response: str, history: tuple[Turn, ...]) -> None:
    """No text whatever moves a token's segment or span."""
    assume(prompt or response or any(turn.content for turn in history) or voice.bos is not None)
    pair = voice.pair(prompt, response, history)

    tokens = voice.read(pair)

    assert expected_places(voice, pair, tokens.ids.tolist()) == places(tokens)


@given(prompt=any_text, response=any_text, history=history_of)
@settings(max_examples=30, deadline=None)
@example("", "", ())
def test_ids_are_those_of_the_tokenizer_itself(
    voice: Voice, prompt: str, response: str, history: tuple[Turn, ...]
) -> None:
    """The reader gets exactly what transformers' own rendering and encoding give."""
    pair = Pair(prompt, response, history)
    assume(prompt or response or any(turn.content for turn in history) or voice.bos is not None)
    turns = [*history, Turn("user", prompt), Turn("assistant", response)]
    if voice.chat:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = voice.tokenizer.apply_chat_template(messages, tokenize=False)
        expected = voice.tokenizer.encode(text, add_special_tokens=False)
    else:
        expected = voice.tokenizer.encode("\n\n".join(turn.content for turn in turns if turn.content))

    assert expected == voice.read(pair).ids.tolist()


@given(text=any_text)
@settings(max_examples=30, deadline=None)
@example(TEXTS["long"])
def test_the_whole_response_is_covered(voice: Voice, text: str) -> None:
    """Every character the template leaves in the response belongs to a response token."""
    pair = Pair("why?", text.replace("<", "("))  # special tokens are left out on purpose
    tokens = voice.read(pair)
    mine = tokens.segments == Segment.RESPONSE
    covered = {i for start, end in zip(tokens.starts[mine], tokens.ends[mine], strict=True) for i in range(start, end)}
    _, spans = rendered(voice, pair)
    expected = [range(cut, cut + end - start) for start, end, segment, _, cut in spans if segment == Segment.RESPONSE]

    assert set(*expected) == covered


@pytest.mark.parametrize(
    ("response", "spans"),
    [("\n 👩🏽", ["👩"] * 4 + ["🏽"] * 4), ("  é\tü\n", ["é", "é", "\t", "ü", "ü"])],
    ids=["bytes of an emoji", "bytes of letters"],
)
def test_spans_cut_the_untrimmed_text(house: House, response: str, spans: list[str]) -> None:
    """Offsets count in the text as the caller sent it, though the template trims it."""
    pair = Pair("hi", response)
    (tokens,) = Tokeniser(house.reader, max_tokens=PLENTY).tokenise([pair])
    assert isinstance(tokens, TokenisedPair)
    mine = tokens.segments == Segment.RESPONSE

    cut = [pair.response[start:end] for start, end in zip(tokens.starts[mine], tokens.ends[mine], strict=True)]

    assert spans == cut


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("m.content", " \na b\t "),
        ("m.content | trim", "a b"),
        ("m.content.lstrip()", "a b\t "),
        ("m.content.rstrip()", " \na b"),
    ],
    ids=["as it is", "trimmed", "trimmed on the left", "trimmed on the right"],
)
def test_templates_may_trim_either_end(tmp_path: Path, place: str, read: str) -> None:
    """Whatever a template trims, the tokens cover exactly what it leaves, in the places of the caller's text."""
    gemma_tokenizer(tmp_path, chat=True)
    template = f"{{% for m in messages %}}<start_of_turn>{{{{ {place} }}}}<end_of_turn>{{% endfor %}}"
    (tmp_path / "chat_template.jinja").write_text(template)
    text = " \na b\t "
    start = text.index(read)

    (tokens,) = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair(text, text)])

    assert isinstance(tokens, TokenisedPair)
    for segment in (Segment.PROMPT, Segment.RESPONSE):
        mine = tokens.segments == segment
        starts, ends = tokens.starts[mine].tolist(), tokens.ends[mine].tolist()
        assert (start, start + len(read)) == (starts[0], ends[-1])
        assert starts[1:] == ends[:-1]


def test_bos_comes_first_and_once(voice: Voice) -> None:
    """A conversation starts with one BOS, whichever of template and tokenizer places it, or both; or with none."""
    ids = voice.read(Pair("hello", "world", (Turn("user", "a"), Turn("assistant", "b")))).ids.tolist()

    assert [0] * (voice.bos is not None) == [i for i, index in enumerate(ids) if index == voice.bos]


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_bos_is_added_where_neither_template_nor_tokenizer_places_it(tmp_path: Path, chat: bool) -> None:
    """A reader always reads BOS first, since without it every activation is another."""
    gemma_tokenizer(tmp_path, chat=chat)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    state = backend.to_str().replace('"<bos> $A"', '"$A"')
    bare = Tokenizer.from_str(state)
    bare.post_processor = None
    bare.save(str(tmp_path / "tokenizer.json"))
    if chat:
        template = tmp_path / "chat_template.jinja"
        template.write_text(template.read_text().replace("{{ bos_token }}", ""))
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

    (tokens,) = tokeniser.tokenise([Pair("hello", "world")])

    assert isinstance(tokens, TokenisedPair)
    texts = tokeniser.token_texts(tokens.ids)
    second = (Segment.TEMPLATE if chat else Segment.PROMPT, 0, 0)
    assert ("<bos>", 1) == (texts[0], texts.count("<bos>"))
    assert [OUTSIDE[:3], second] == [place[:3] for place in places(tokens)[:2]]


SYSTEM = (Turn("system", " Be kind.\n"), Turn("user", " why? \n"), Turn("assistant", "\nbecause "))


@pytest.mark.parametrize("voice", ["gemma3", "llama", "qwen2", "qwen3"], indirect=True)
@pytest.mark.parametrize("turns", [1, 3], ids=["system alone", "system and earlier turns"])
def test_a_system_turn_is_history_wherever_the_template_puts_it(voice: Voice, turns: int) -> None:
    """Before the conversation, in the header of dates or folded into the first user turn: it has its exact place."""
    pair = Pair("\nhello", "\n\n world", SYSTEM[:turns])

    tokens = voice.read(pair)

    assert expected_places(voice, pair, tokens.ids.tolist()) == places(tokens)
    said = dict.fromkeys(range(turns), "")
    for segment, turn, start, end in places(tokens):
        if segment == Segment.HISTORY:
            said[turn] += pair.history[turn].content[start:end]
    assert [turn.content.strip() for turn in SYSTEM[:turns]] == [said[turn].strip() for turn in range(turns)]


@pytest.mark.parametrize("voice", ["llama"], indirect=True)
def test_the_header_of_dates_is_not_scored(voice: Voice) -> None:
    """All that Llama 3's template writes of its own, dates included, is read and belongs to no segment."""
    tokens = voice.read(Pair("hello", "world"))

    texts = voice.tokeniser.token_texts(tokens.ids)
    own = "".join(text for text, place in zip(texts, places(tokens), strict=True) if place == OUTSIDE)
    header = "<|start_header_id|>{}<|end_header_id|>ĊĊ".format
    dates = "CuttingĠKnowledgeĠDate:ĠDecemberĠ2023ĊTodayĠDate:Ġ26ĠJulĠ2024ĊĊ"
    turns = header("user") + "<|eot_id|>" + header("assistant") + "<|eot_id|>"
    assert "<|begin_of_text|>" + header("system") + dates + "<|eot_id|>" + turns == own


def test_mistrals_system_turn_is_exact_or_refused(tmp_path: Path) -> None:
    """Folded into the only user turn it keeps its place; folded into a later one, after what came between, it is refused."""
    save_tokenizer("mistral", tmp_path)
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

    alone, between = tokeniser.tokenise([Pair("hello", "world", SYSTEM[:1]), Pair("hello", "world", SYSTEM)])

    assert isinstance(alone, TokenisedPair)
    mine = alone.segments == Segment.HISTORY
    assert (0, len(SYSTEM[0].content)) == (alone.starts[mine].min(), alone.ends[mine].max())
    assert isinstance(between, InvalidRequest)
    assert "leaves out or reorders a message" in str(between)


@pytest.mark.parametrize("voice", ["qwen3"], indirect=True)
def test_a_thought_the_template_rewrites_is_refused_by_name(voice: Voice) -> None:
    """A response whose thought the template takes apart is refused, and it is the response that is to blame."""
    (refusal,) = voice.tokeniser.tokenise([Pair("hello", "<think>\nhm\n</think>\n\nworld")])

    assert isinstance(refusal, InvalidRequest)
    assert (FieldViolation("response", "the reader's chat template rewrites it"),) == refusal.violations


@pytest.mark.parametrize("voice", ["qwen plain"], indirect=True)
def test_without_bos_the_first_token_is_the_sink(voice: Voice) -> None:
    """A reader without BOS reads the first token of the text and does not score it, truncated or not."""
    pair = Pair("hello world", "the answer")
    whole = voice.read(pair)
    (cut,) = Tokeniser(voice.directory, max_tokens=len(whole.ids) - 1).tokenise([pair])

    assert isinstance(cut, TokenisedPair)
    assert voice.tokenizer.encode("hello world\n\nthe answer") == whole.ids.tolist()
    assert [OUTSIDE, (Segment.PROMPT, 0, 5, 11)] == places(whole)[:2]
    assert [whole.ids[0], *whole.ids[2:]] == cut.ids.tolist()
    assert [OUTSIDE, *places(whole)[2:]] == places(cut)


@pytest.mark.parametrize("voice", ["qwen plain"], indirect=True)
def test_nothing_at_all_is_refused(voice: Voice) -> None:
    """Where there is neither text nor BOS there is nothing to read, which is said and not tried."""
    (refusal,) = voice.tokeniser.tokenise([Pair("", "")])

    assert isinstance(refusal, InvalidRequest)
    assert ["response"] == [violation.field for violation in refusal.violations]


@pytest.mark.parametrize(
    ("response", "spans"),
    [
        ("e\u0301x", [(0, 2), (0, 2), (2, 3)]),
        ("x\u1112\u1161\u11ab", [(0, 1), (1, 4), (1, 4), (1, 4)]),
        ("a\u0300\u0323b", [(0, 2), (0, 2), (0, 2), (2, 3), (2, 3), (3, 4)]),
        ("\u212bq", [(0, 1), (0, 1), (1, 2)]),
    ],
    ids=["accent", "syllable", "accents in another order", "one sign for another"],
)
@pytest.mark.parametrize("voice", ["qwen2", "qwen plain"], indirect=True)
def test_composed_letters_have_the_place_of_their_parts(voice: Voice, response: str, spans: list[tuple]) -> None:
    """Qwen's tokenizers compose accents first; every character of the caller's own spelling still belongs to a token."""
    tokens = voice.read(Pair("hello", response))
    mine = tokens.segments == Segment.RESPONSE

    assert spans == list(zip(tokens.starts[mine].tolist(), tokens.ends[mine].tolist(), strict=True))


def test_written_out_special_tokens_belong_to_no_segment(voice: Voice) -> None:
    """`<end_of_turn>` typed by a caller is read as the special token it is and never scored."""
    one, two, three = voice.special[-3:]
    pair = Pair(f"aha {one} b", f"c{two}{three}d{one}")
    tokens = voice.read(pair)
    special = np.isin(tokens.ids, voice.tokenizer.convert_tokens_to_ids([one, two, three]))
    texts = {Segment.PROMPT: pair.prompt, Segment.RESPONSE: pair.response}
    scored = dict.fromkeys(texts, "")
    for segment, _, start, end in places(tokens):
        if segment:
            scored[Segment(segment)] += texts[Segment(segment)][start:end]

    assert {OUTSIDE} == {place for place, is_special in zip(places(tokens), special, strict=True) if is_special}
    assert scored[Segment.PROMPT] in {"aha  b", "ha  b"}
    assert "cd" == scored[Segment.RESPONSE]


def test_the_unknown_token_is_scored(tmp_path: Path) -> None:
    """A character the vocabulary lacks is text: its token counts as part of the response."""
    gemma_tokenizer(tmp_path, chat=True)
    file = tmp_path / "tokenizer.json"
    state = file.read_text(encoding="utf-8")
    assert '"byte_fallback": true' in state
    file.write_text(state.replace('"byte_fallback": true', '"byte_fallback": false'), encoding="utf-8")
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

    (tokens,) = tokeniser.tokenise([Pair("hello", "hello 你好 hello")])

    assert isinstance(tokens, TokenisedPair)
    expected = [(Segment.RESPONSE, 0, 6, 8)]
    texts = tokeniser.token_texts(tokens.ids)
    assert expected == [
        place for place, text in zip(places(tokens), texts, strict=True) if text == "<unk>" and any(place)
    ]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("y\n\nno", [(Segment.PROMPT, 0, 1, 2), (Segment.RESPONSE, 0, 0, 2), (Segment.RESPONSE, 0, 2, 3)]),
        ("y\n", [(Segment.PROMPT, 0, 1, 2), (Segment.PROMPT, 0, 2, 3), OUTSIDE]),
        ("\nno", [OUTSIDE, (Segment.RESPONSE, 0, 0, 2), (Segment.RESPONSE, 0, 2, 3)]),
    ],
    ids=["both texts", "prompt and separator", "separator and response"],
)
def test_a_token_over_a_border_stays_within_one_text(tmp_path: Path, token: str, expected: list[Place]) -> None:
    """A token that reaches over a border belongs to one text, the later one, and its span is cut to it."""
    gemma_tokenizer(tmp_path, chat=False, byte_level=True)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([AddedToken(token, special=False, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

    (tokens,) = tokeniser.tokenise([Pair("why", "nobody")])

    assert isinstance(tokens, TokenisedPair)
    over = tokeniser.token_texts(tokens.ids).index(token)
    assert expected == places(tokens)[over - 1 : over + 2]


def test_token_texts_are_the_vocabulary_spelling(house: House) -> None:
    """`token_texts` names every token, template tokens too, as the vocabulary writes it."""
    tokeniser = Tokeniser(house.reader, max_tokens=PLENTY)
    (tokens,) = tokeniser.tokenise([Pair("hello", "é")])
    assert isinstance(tokens, TokenisedPair)
    expected = ["<bos>", "<start_of_turn>", "<0xC3>", "<0xA9>", "<end_of_turn>", "<0x0A>"]

    texts = tokeniser.token_texts(tokens.ids)

    assert expected == texts[:2] + texts[-4:]


def test_coverage_counts_the_tokens_of_each_segment(voice: Voice) -> None:
    """Coverage says how many tokens of each part are read, and that nothing is left out."""
    tokens = voice.read(Pair("hello world", "I do not know", (Turn("user", "a"), Turn("assistant", "b c"))))
    by_segment = np.bincount(tokens.segments, minlength=4).tolist()
    coverage = tokens.coverage

    assert [len(tokens.ids), *by_segment[1:], False] == [
        coverage.tokens,
        coverage.prompt_tokens,
        coverage.response_tokens,
        coverage.history_tokens,
        coverage.truncated,
    ]


REFUSED_HISTORIES = {
    "assistant first": (
        (Turn("assistant", "a"), Turn("user", "b")),
        "Conversation roles must alternate user/assistant/user/assistant/...",
    ),
    "user twice": ((Turn("user", "a"),), "Conversation roles must alternate user/assistant/user/assistant/..."),
    "system": ((Turn("system", "a"), Turn("assistant", "b")), "System role not supported"),
}


@pytest.mark.parametrize(("history", "reason"), REFUSED_HISTORIES.values(), ids=REFUSED_HISTORIES.keys())
def test_roles_the_template_refuses_are_the_callers_mistake(
    house: House, history: tuple[Turn, ...], reason: str
) -> None:
    """A conversation the template refuses is an invalid `history`, in the template's own words."""
    (refusal,) = Tokeniser(house.reader, max_tokens=PLENTY).tokenise([Pair("hello", "world", history)])

    assert isinstance(refusal, InvalidRequest)
    assert (FieldViolation("history", f"the reader's chat template refuses it: {reason}"),) == refusal.violations


def test_any_roles_are_read_without_a_template(plain_house: House) -> None:
    """A reader without a template reads any conversation as plain text."""
    history = (Turn("system", "be kind"), Turn("tool", "42"), Turn("user", ""))
    tokeniser = Tokeniser(plain_house.reader, max_tokens=PLENTY)

    (tokens,) = tokeniser.tokenise([Pair("hello", "world", history)])

    assert isinstance(tokens, TokenisedPair)
    assert {0, 1} == {turn for segment, turn, _, _ in places(tokens) if segment == Segment.HISTORY}


LOOP = "{% for m in messages %}"
UNFAITHFUL = {
    "drops the first": (f"{LOOP}{{% if not loop.first %}}[{{{{ m.content }}}}]{{% endif %}}{{% endfor %}}", "history"),
    "drops system": (f"{LOOP}{{% if m.role != 'system' %}}[{{{{ m.content }}}}]{{% endif %}}{{% endfor %}}", "history"),
    "reorders": ("{% for m in messages | reverse %}[{{ m.content }}]{% endfor %}", "history"),
    "repeats": (f"{LOOP}[{{{{ m.content }}}}{{{{ m.content }}}}]{{% endfor %}}", "history"),
    "shouts": (f"{LOOP}[{{{{ m.content | upper }}}}]{{% endfor %}}", "history[0].content"),
    "shortens": (f"{LOOP}[{{{{ m.content[:4] }}}}]{{% endfor %}}", "history[0].content"),
    "rewrites the prompt": (
        f"{LOOP}[{{{{ m.content | replace('hello', 'bye') }}}}]{{% endfor %}}",
        "prompt",
    ),
    "rewrites the response": (f"{LOOP}[{{{{ m.content | replace('world', 'w') }}}}]{{% endfor %}}", "response"),
    "adds to the end": (
        f"{LOOP}{{{{ m.content }}}}{{% if 'world' in m.content %}}!{{% endif %}}{{% endfor %}}",
        "response",
    ),
}


@pytest.mark.parametrize(("template", "field"), UNFAITHFUL.values(), ids=UNFAITHFUL.keys())
def test_a_template_that_loses_text_is_refused(tmp_path: Path, template: str, field: str) -> None:
    """Text the reader would not read as it was sent is refused by name, never scored in part."""
    gemma_tokenizer(tmp_path, chat=True)
    (tmp_path / "chat_template.jinja").write_text(template)
    history = (Turn("system", "be kind"), Turn("user", "question"), Turn("assistant", "answer"))

    (refusal,) = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair("hello you", "world", history)])

    assert isinstance(refusal, InvalidRequest)
    assert [field] == [violation.field for violation in refusal.violations]


def test_a_refused_pair_does_not_touch_its_neighbours(house: House) -> None:
    """In one call, good pairs come back in their places beside a refused one."""
    tokeniser = Tokeniser(house.reader, max_tokens=PLENTY)
    good = [Pair("hello", "world"), Pair("what is the answer", "I do not know")]
    alone = [tokeniser.tokenise([pair])[0] for pair in good]
    refused = Pair("hello", "world", (Turn("system", "x"),))

    first, between, last = tokeniser.tokenise([good[0], refused, good[1]])

    assert isinstance(between, InvalidRequest)
    assert [one.ids.tolist() for one in alone] == [first.ids.tolist(), last.ids.tolist()]


TRUNCATED = {
    "no history": Pair("the quick brown fox", "insulin lowers blood sugar"),
    "history": Pair(
        "hello world",
        "it may rain 👩🏽‍🚀",
        (Turn("user", "the fox"), Turn("assistant", "the dog"), Turn("user", "again"), Turn("assistant", "no")),
    ),
    "empty prompt": Pair("", "the patient might have gout", (Turn("user", "hello"), Turn("assistant", "world"))),
    "special tokens inside": Pair("<eos><eos>the<bos>fox<eos>", "<pad>the<eos>dog<pad><pad>"),
    "empty response": Pair("hello world, what is the answer", ""),
    "only special tokens in the prompt": Pair("<eos>" * 30, "the dog"),
}


def _regions(voice: Voice, pair: Pair, ids: list[int]) -> list[list[int]]:
    """Token indices from the first to the last of history, prompt and response, special tokens within included."""
    _, spans = rendered(voice, pair)
    where = token_places(voice, pair, ids)
    regions = []
    for segment in (Segment.HISTORY, Segment.PROMPT, Segment.RESPONSE):
        mine = [span for span in spans if span[2] == segment]
        # The first token of all stays, whatever it is.
        inside = [i for i, (start, end) in enumerate(where) if i and mine and start < mine[-1][1] and end > mine[0][0]]
        regions.append(inside)
    return regions


@pytest.mark.parametrize("voice", ["chat", "plain", "qwen plain"], indirect=True)
@pytest.mark.parametrize("pair", TRUNCATED.values(), ids=TRUNCATED.keys())
def test_truncation_drops_the_oldest_first(voice: Voice, pair: Pair) -> None:
    """For every limit: history goes first and from its start, then the prompt's start, then the response's end."""
    whole = voice.read(pair)
    tokens = list(zip(whole.ids.tolist(), places(whole), strict=True))
    history, prompt, response = _regions(voice, pair, whole.ids.tolist())
    droppable = [*history, *prompt, *reversed(response)]
    scored = [i for i in response if tokens[i][1][0] == Segment.RESPONSE]
    outcomes, expected = [], []
    for limit in range(1, len(tokens) + 2):
        over = max(0, len(tokens) - limit)
        dropped = set(droppable[:over])
        enough = over <= len(droppable) and (not scored or not dropped.issuperset(scored))
        expected.append([t for i, t in enumerate(tokens) if i not in dropped] if enough else "refused")
        (kept,) = Tokeniser(voice.directory, max_tokens=limit).tokenise([pair])
        refused = isinstance(kept, InvalidRequest)
        outcomes.append("refused" if refused else list(zip(kept.ids.tolist(), places(kept), strict=True)))

    assert expected == outcomes
    assert tokens == outcomes[-1]


@pytest.mark.parametrize("voice", ["chat", "plain", "qwen plain"], indirect=True)
@pytest.mark.parametrize("pair", TRUNCATED.values(), ids=TRUNCATED.keys())
def test_coverage_adds_up_under_truncation(voice: Voice, pair: Pair) -> None:
    """Kept and dropped tokens of each segment sum to the whole, and the reading fits the limit."""
    whole = voice.read(pair).coverage
    read_whole = (whole.history_tokens, whole.prompt_tokens, whole.response_tokens)
    for limit in range(16, whole.tokens + 1, 3):
        (tokens,) = Tokeniser(voice.directory, max_tokens=limit).tokenise([pair])
        if isinstance(tokens, InvalidRequest):
            continue
        part = tokens.coverage
        assert min(limit, whole.tokens) == part.tokens == len(tokens.ids)
        assert read_whole == (
            part.history_tokens + part.history_tokens_dropped,
            part.prompt_tokens + part.prompt_tokens_dropped,
            part.response_tokens + part.response_tokens_dropped,
        )
        kept = (part.history_tokens, part.prompt_tokens, part.response_tokens)
        assert (read_whole != kept) == part.truncated
        assert kept == tuple(int((tokens.segments == s).sum()) for s in (3, 1, 2))


def test_template_tokens_around_prompt_and_response_stay(house: House) -> None:
    """A truncated conversation still looks like one to the reader."""
    pair = Pair("hello world", "the answer", (Turn("user", "the quick fox"), Turn("assistant", "lazy dog")))
    (whole,) = Tokeniser(house.reader, max_tokens=PLENTY).tokenise([pair])
    assert isinstance(whole, TokenisedPair)
    between = len(["<end_of_turn>", "\n", "<start_of_turn>", "m", "o", "d", "el", "\n"])
    limit = len(whole.ids) - whole.coverage.prompt_tokens - whole.coverage.history_tokens - between
    tokeniser = Tokeniser(house.reader, max_tokens=limit)

    (tokens,) = tokeniser.tokenise([pair])

    assert isinstance(tokens, TokenisedPair)
    texts = ["\n" if text == "<0x0A>" else text for text in tokeniser.token_texts(tokens.ids)]
    shell = "".join(text for text, place in zip(texts, places(tokens), strict=True) if place == OUTSIDE)
    expected = (
        "<bos><start_of_turn>user\n<end_of_turn>\n"
        "<start_of_turn>user\n<end_of_turn>\n"
        "<start_of_turn>model\n<end_of_turn>\n"
    )
    assert expected == shell
    assert (0, 0, whole.coverage.response_tokens) == (
        tokens.coverage.history_tokens,
        tokens.coverage.prompt_tokens,
        tokens.coverage.response_tokens,
    )


def test_a_limit_below_the_template_is_refused(house: House) -> None:
    """Where the template leaves no room for the response, the pair is refused and the limit named."""
    (refusal,) = Tokeniser(house.reader, max_tokens=8).tokenise([Pair("hello", "world")])

    assert isinstance(refusal, InvalidRequest)
    assert "max_tokens=8" in str(refusal)


# The template's digest.


def test_the_template_has_a_digest(house: House, plain_house: House) -> None:
    """It is the SHA-256 of the template's text, and empty where texts are joined without one."""
    digest = Tokeniser(house.reader, max_tokens=PLENTY).template_digest

    assert hashlib.sha256(GEMMA_TEMPLATE.encode()).hexdigest() == digest
    assert "" == Tokeniser(plain_house.reader, max_tokens=PLENTY).template_digest


def test_of_several_templates_the_one_in_use_is_digested(tmp_path: Path) -> None:
    """A template for tools, which is never used here, does not count."""
    gemma_tokenizer(tmp_path, chat=False)
    (tmp_path / "chat_template.jinja").write_text(GEMMA_TEMPLATE)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")

    digest = Tokeniser(tmp_path, max_tokens=PLENTY).template_digest

    assert hashlib.sha256(GEMMA_TEMPLATE.encode()).hexdigest() == digest
