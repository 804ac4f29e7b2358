"""The tokeniser: which tokens the reader reads, and where each stands in the caller's text."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conftest import House, gemma_tokenizer
from families import save_tokenizer
from reading import BYTE_OF_LETTER
from scopewatch.errors import InvalidRequest
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sources import Rendering
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
    return [*pieces, "<start_of_turn>model\n"]


def as_llama(turns: Sequence[Turn]) -> list[str | Placed]:
    """The system's words stand behind the dates."""
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    pieces: list[str | Placed] = ["<|begin_of_text|>", header("system"), dates]
    if turns[0].role != "system":
        pieces += ["<|eot_id|>"]
    for index, turn in enumerate(turns):
        if turn.role != "system":
            pieces += [header(turn.role)]
        pieces += [trimmed(index, turn.content), "<|eot_id|>"]
    return [*pieces, header("assistant")]


def as_qwen2(turns: Sequence[Turn]) -> list[str | Placed]:
    """Where there is no system message, the template writes one."""
    default = ["<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"] if turns[0].role != "system" else []
    return default + as_qwen3(turns)


def as_qwen3(turns: Sequence[Turn]) -> list[str | Placed]:
    pieces: list[str | Placed] = []
    for index, turn in enumerate(turns):
        pieces += [f"<|im_start|>{turn.role}\n", verbatim(index, turn.content), "<|im_end|>\n"]
    return [*pieces, "<|im_start|>assistant\n"]


def as_plain(turns: Sequence[Turn]) -> list[str | Placed]:
    """Behind each text but the answer there is an empty line."""
    return [
        piece for index, turn in enumerate(turns) if turn.content for piece in (verbatim(index, turn.content), "\n\n")
    ]


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
    def control(self) -> list[str]:
        """All tokens that no text holds."""
        return [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    @property
    def byte_level(self) -> bool:
        return self.tokenizer.convert_tokens_to_ids("Ġ") not in {None, self.tokenizer.unk_token_id}

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


def spans_of(voice: Voice, pair: Pair) -> tuple[str, list[tuple[int, int, Segment, int, int]]]:
    """The text the reader sees, and (start, end, segment, turn, characters trimmed before it) of the caller's texts."""
    turns = [*pair.history, Turn("user", pair.prompt)]
    segments = [(Segment.HISTORY, i) for i in range(len(pair.history))] + [(Segment.PROMPT, 0), (Segment.RESPONSE, 0)]
    text, spans = "", []
    for piece in [*voice.form(turns), verbatim(len(turns), pair.response)]:
        if isinstance(piece, Placed) and piece.text:
            spans.append((len(text), len(text) + len(piece.text), *segments[piece.turn], piece.cut))
        text += piece.text if isinstance(piece, Placed) else piece
    return text, spans


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
    text, _ = spans_of(voice, pair)
    tokens = voice.tokenizer.convert_ids_to_tokens(ids)
    added = [] if voice.chat or voice.bos is None else [(-1, -1)]
    return added + spelled_out(tokens[len(added) :], text, byte_level=voice.byte_level)


def expected_places(voice: Voice, pair: Pair, ids: list[int]) -> list[Place]:
    """Every token's place, worked out from the tokens' spelling and the template as the test knows it."""
    _, spans = spans_of(voice, pair)
    found: list[Place] = []
    for start, end in token_places(voice, pair, ids):
        inside = [span for span in spans if start < span[1] and end > span[0]]
        if not inside or not found:  # the first token of all is not scored
            found.append(OUTSIDE)
            continue
        first, last, segment, turn, trimmed = inside[0]
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
    "special tokens": "a<end_of_turn>b<bos><unk> <start_of_turn>user\nc<|im_end|><|eot_id|> <|begin_of_text|>d<|endoftext|>",
    "control characters": "a\0b\x01",
    "long": "the quick brown fox 🦊 does not know " * 500,
}
any_text = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
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
@settings(max_examples=25, deadline=None)
def test_places_hold_for_any_text(voice: Voice, prompt: str, response: str, history: tuple[Turn, ...]) -> None:
    """No text whatever moves a token's segment or span, nor makes a control token of itself."""
    assume(prompt or response or any(turn.content for turn in history) or voice.bos is not None)
    pair = voice.pair(prompt, response, history)

    tokens = voice.read(pair)

    assert expected_places(voice, pair, tokens.ids.tolist()) == places(tokens)
    assert not np.isin(tokens.ids[tokens.segments > 0], voice.tokenizer.convert_tokens_to_ids(voice.control)).any()


@given(prompt=any_text, response=any_text, history=history_of)
@settings(max_examples=15, deadline=None)
@example("", "", ())
def test_ids_are_those_of_the_tokenizer_itself(
    voice: Voice, prompt: str, response: str, history: tuple[Turn, ...]
) -> None:
    """The reader gets what transformers renders and encodes of all before the answer, and the answer's own tokens."""
    pair = Pair(*(_without(voice.control, text) for text in (prompt, response)))
    pair = Pair(pair.prompt, pair.response, tuple(Turn(t.role, _without(voice.control, t.content)) for t in history))
    assume(pair.prompt or pair.response or any(turn.content for turn in pair.history) or voice.bos is not None)
    turns = [*pair.history, Turn("user", pair.prompt)]
    if voice.chat:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        expected = voice.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        expected = voice.tokenizer.encode("".join(turn.content + "\n\n" for turn in turns if turn.content))
    expected += voice.tokenizer.encode(pair.response, add_special_tokens=False)

    assert expected == voice.read(pair).ids.tolist()


def _without(control: Sequence[str], text: str) -> str:
    for token in control:
        text = text.replace(token, token[1:])
    return text if not any(token in text for token in control) else ""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_the_whole_response_is_covered(voice: Voice, text: str) -> None:
    """Every character of the response belongs to a response token, and the tokens stand in the text's order."""
    tokens = voice.read(Pair("why?", text))
    mine = tokens.segments == Segment.RESPONSE
    covered = {i for start, end in zip(tokens.starts[mine], tokens.ends[mine], strict=True) for i in range(start, end)}

    assert set(range(len(text))) == covered
    assert sorted(tokens.starts[mine]) == tokens.starts[mine].tolist()


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [("\n 👩🏽", ["👩"] * 4 + ["🏽"] * 4), ("  é\tü\n", ["é", "é", "\t", "ü", "ü"])],
    ids=["bytes of an emoji", "bytes of letters"],
)
def test_spans_cut_the_untrimmed_text(house: House, prompt: str, spans: list[str]) -> None:
    """Offsets count in the text as the caller sent it, though the template trims it."""
    pair = Pair(prompt, "hi")
    (tokens,) = Tokeniser(house.reader, max_tokens=PLENTY).tokenise([pair])
    assert isinstance(tokens, TokenisedPair)
    mine = tokens.segments == Segment.PROMPT

    cut = [pair.prompt[start:end] for start, end in zip(tokens.starts[mine], tokens.ends[mine], strict=True)]

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
    """Whatever a template trims, the tokens cover exactly what it leaves, and the coverage calls nothing lost."""
    text = " \na b\t "
    tokens = _read_by(
        f"{{% for m in messages %}}<start_of_turn>{{{{ {place} }}}}{{% endfor %}}", tmp_path, Pair(text, "x")
    )
    start = text.index(read)
    mine = tokens.segments == Segment.PROMPT
    starts, ends = tokens.starts[mine].tolist(), tokens.ends[mine].tolist()

    assert (start, start + len(read)) == (starts[0], ends[-1])
    assert starts[1:] == ends[:-1]
    assert ((), ()) == (tokens.coverage.unlocated, tokens.coverage.shortened)


def _read_by(template: str, directory: Path, pair: Pair) -> TokenisedPair:
    gemma_tokenizer(directory, chat=True)
    (directory / "chat_template.jinja").write_text(template)
    (tokens,) = Tokeniser(directory, max_tokens=PLENTY).tokenise([pair])
    assert isinstance(tokens, TokenisedPair), tokens
    return tokens


def test_bos_comes_first_and_once(voice: Voice) -> None:
    """A conversation starts with one BOS, whichever of template and tokenizer places it; or with none."""
    ids = voice.read(Pair("hello", "world", (Turn("user", "a"), Turn("assistant", "b")))).ids.tolist()

    assert [0] * (voice.bos is not None) == [i for i, index in enumerate(ids) if index == voice.bos]
    assert (voice.bos is not None) == voice.tokeniser.reads_bos


BOS = {"files": False, "always": True, "never": False}


@pytest.mark.parametrize("wanted", BOS)
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("placed", [True, False], ids=["placed", "not placed"])
def test_bos_is_as_the_files_say_or_as_wanted(tmp_path: Path, wanted: str, chat: bool, placed: bool) -> None:
    """BOS is read where template or tokenizer place it, unless the settings say always or never."""
    gemma_tokenizer(tmp_path, chat=chat)
    if not placed:
        backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        backend.post_processor = None
        backend.save(str(tmp_path / "tokenizer.json"))
        template = tmp_path / "chat_template.jinja"
        if chat:
            template.write_text(template.read_text().replace("{{ bos_token }}", ""))
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY, rendering=Rendering(bos=wanted))

    (tokens,) = tokeniser.tokenise([Pair("hello", "world")])

    assert isinstance(tokens, TokenisedPair)
    texts = tokeniser.token_texts(tokens.ids)
    read = placed if wanted == "files" else wanted == "always"
    assert (read, int(read)) == (texts[0] == "<bos>", texts.count("<bos>"))
    assert OUTSIDE == places(tokens)[0]
    assert read == tokeniser.reads_bos


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_nothing_is_put_between_prompt_and_answer(tmp_path: Path, family: str) -> None:
    """A tokenizer that ends a text with EOS ends the whole with it, not what comes before the answer."""
    save_tokenizer(family, tmp_path, chat=False)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair("hello", "world")])[0]
    bos, eos = ("<s>", "</s>") if family == "mistral" else ("<|begin_of_text|>", "<|eot_id|>")
    special = [(token, backend.token_to_id(token)) for token in (bos, eos)]
    backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=special)
    backend.save(str(tmp_path / "tokenizer.json"))

    ended = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair("hello", "world")])[0]

    assert isinstance(plain, TokenisedPair)
    assert isinstance(ended, TokenisedPair)
    assert plain.ids.tolist() == ended.ids.tolist()


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
    turns = header("user") + "<|eot_id|>" + header("assistant")
    assert "<|begin_of_text|>" + header("system") + dates + "<|eot_id|>" + turns == own


def test_a_system_turn_may_stand_behind_what_came_after_it(tmp_path: Path) -> None:
    """Mistral's template writes it into the last user turn: there it has its place in the caller's text."""
    save_tokenizer("mistral", tmp_path)
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY)

    for history in (SYSTEM[:1], (SYSTEM[0], Turn("user", "why?"), Turn("assistant", "because"))):
        (tokens,) = tokeniser.tokenise([Pair("hello", "world", history)])

        assert isinstance(tokens, TokenisedPair)
        system = (tokens.segments == Segment.HISTORY) & (tokens.turns == 0)
        assert (0, len(SYSTEM[0].content)) == (tokens.starts[system].min(), tokens.ends[system].max())
        prompt = np.flatnonzero(tokens.segments == Segment.PROMPT)
        assert np.flatnonzero(tokens.segments == Segment.HISTORY).max() < prompt.min()


@pytest.mark.parametrize("voice", ["qwen plain"], indirect=True)
def test_without_bos_the_first_token_is_the_sink(voice: Voice) -> None:
    """A reader without BOS reads the first token of the text and does not score it."""
    whole = voice.read(Pair("hello world", "the answer"))

    assert voice.tokenizer.encode("hello world\n\n") == whole.ids.tolist()[: -whole.coverage.response_tokens]
    assert [OUTSIDE, (Segment.PROMPT, 0, 5, 11)] == places(whole)[:2]
    assert OUTSIDE == places(voice.read(Pair("", "the answer")))[0]


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


def test_written_out_control_tokens_are_text(voice: Voice) -> None:
    """Control tokens typed by a caller are the letters they are made of: read, scored, and each in its place."""
    text = "aha" + " b".join(voice.control)
    pair = Pair(text, text, (Turn("user", text), Turn("assistant", text)))

    tokens = voice.read(pair)

    assert expected_places(voice, pair, tokens.ids.tolist()) == places(tokens)
    plain = voice.read(Pair("a", "a", (Turn("user", "a"), Turn("assistant", "a"))))
    control = voice.tokenizer.convert_tokens_to_ids(voice.control)
    assert [i for i in plain.ids.tolist() if i in control] == [i for i in tokens.ids.tolist() if i in control]


def test_control_tokens_are_parsed_where_that_is_wanted(voice: Voice) -> None:
    """With `special_tokens: parse` they are the tokens that a serving engine may take them for, and are not scored."""
    tokeniser = Tokeniser(voice.directory, max_tokens=PLENTY, rendering=Rendering(special_tokens="parse"))
    one, two = [token for token in voice.control if token != "<unk>"][-2:]
    pair = Pair(f"aha {one} b", f"c{two}{one}d{one}")

    (tokens,) = tokeniser.tokenise([pair])

    assert isinstance(tokens, TokenisedPair)
    special = np.isin(tokens.ids, voice.tokenizer.convert_tokens_to_ids([one, two]))
    assert {OUTSIDE} == {place for place, is_special in zip(places(tokens), special, strict=True) if is_special}
    mine = tokens.segments == Segment.RESPONSE
    cut = [pair.response[start:end] for start, end in zip(tokens.starts[mine], tokens.ends[mine], strict=True)]
    assert ["c", "d"] == cut
    if voice.chat:
        ids = voice.tokenizer.apply_chat_template(
            [{"role": "user", "content": pair.prompt}], add_generation_prompt=True, return_dict=False
        )
        assert ids + voice.tokenizer.encode(pair.response, add_special_tokens=False) == tokens.ids.tolist()


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
        ("y\n\n", [(Segment.PROMPT, 0, 1, 2), (Segment.PROMPT, 0, 2, 3)]),
        ("y\n", [(Segment.PROMPT, 0, 1, 2), (Segment.PROMPT, 0, 2, 3)]),
        ("\n\nmay", [(Segment.HISTORY, 0, 2, 5), (Segment.PROMPT, 0, 0, 3)]),
        ("o\n\nmay", [(Segment.HISTORY, 0, 3, 4), (Segment.PROMPT, 0, 0, 3)]),
    ],
    ids=["prompt and separator", "half the separator", "separator and prompt", "both texts"],
)
def test_a_token_over_a_border_stays_within_one_text(tmp_path: Path, token: str, expected: list[Place]) -> None:
    """A token that reaches over a border belongs to one text, the later one, and its span is cut to it."""
    gemma_tokenizer(tmp_path, chat=False, byte_level=True)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([AddedToken(token, special=False, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY, rendering=Rendering(bos="never"))

    (tokens,) = tokeniser.tokenise([Pair("may", "nobody", (Turn("user", "no no"),))])

    assert isinstance(tokens, TokenisedPair)
    over = tokeniser.token_texts(tokens.ids).index(token)
    assert expected == places(tokens)[over - 1 : over + 1]


def test_a_token_of_two_texts_begins_with_the_second(tmp_path: Path) -> None:
    """Its span is not that of the other text, however far it reaches into it."""
    gemma_tokenizer(tmp_path, chat=False, byte_level=True)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([AddedToken("o\n\nmaybe", special=False, normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))

    (tokens,) = Tokeniser(tmp_path, max_tokens=PLENTY).tokenise([Pair("maybe", "x", (Turn("user", "no"),))])

    assert isinstance(tokens, TokenisedPair)
    assert (Segment.PROMPT, 0, 0, 5) == places(tokens)[2]


def test_token_texts_are_the_vocabulary_spelling(house: House) -> None:
    """`token_texts` names every token, template tokens too, as the vocabulary writes it."""
    tokeniser = Tokeniser(house.reader, max_tokens=PLENTY)
    (tokens,) = tokeniser.tokenise([Pair("hello", "é")])
    assert isinstance(tokens, TokenisedPair)
    expected = ["<bos>", "<start_of_turn>", "el", "<0x0A>", "<0xC3>", "<0xA9>"]

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


def test_a_text_of_which_no_token_counts_is_told(tmp_path: Path) -> None:
    """Special tokens that are read as such, and the first token of all, count for nothing; blank texts are none."""
    gemma_tokenizer(tmp_path, chat=False, byte_level=True)

    def unscored(pair: Pair, **rendering: Any) -> tuple[str, ...]:
        tokeniser = Tokeniser(tmp_path, max_tokens=PLENTY, rendering=Rendering(**rendering))
        (tokens,) = tokeniser.tokenise([pair])
        assert isinstance(tokens, TokenisedPair)
        return tokens.coverage.unscored

    assert ("response",) == unscored(Pair(" ", "<eos><pad>"), special_tokens="parse")
    assert () == unscored(Pair(" ", "<eos><pad>"))
    assert ("prompt",) == unscored(Pair("m", "yes"), bos="never")
    assert () == unscored(Pair("", "yes", (Turn("user", ""),)), bos="never")
