"""A reader of each published kind of chat template, and what is checked of everything that it reads."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from chat_templates import TEMPLATES, Template, save
from conversations import Conversation, Message
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sources import Rendering
from scopewatch.types import Pair, Segment, TokenisedPair

PLENTY = 1_000_000


def _byte_of_letter() -> dict[str, int]:
    """The byte each letter of a byte-level vocabulary stands for, as GPT-2 defined it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()


def today() -> str:
    """The day that templates are told by transformers, whose clock is the local one."""
    return str(datetime.now().date())  # noqa: DTZ005


class Reader:
    """A template's tokeniser under test, beside transformers' own tokenizer of the same files."""

    def __init__(self, name: str, directory: Path) -> None:
        self.template: Template = TEMPLATES[name]
        self.directory = save(name, directory)
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(directory)
        self.tokeniser = self.made()
        self.parsing = self.made(special_tokens="parse")

    def made(self, **rendering: Any) -> Tokeniser:
        return Tokeniser(self.directory, max_tokens=PLENTY, rendering=Rendering(**rendering))

    def read(self, pair: Pair) -> TokenisedPair:
        return read_by(self.tokeniser, pair)

    def rendered(self, messages: Sequence[Message], said: Conversation, **options: Any) -> list[int]:
        """The ids that transformers gives for messages and the beginning of an answer."""
        ids: list[int] = self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(said.tools) or None,
            documents=list(said.documents) or None,
            add_generation_prompt=True,
            return_dict=False,
            **said.arguments,
            **options,
        )
        return ids

    def generated(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @property
    def control(self) -> list[int]:
        """The ids of tokens that no text holds: the special ones, and those the template writes around messages."""
        turns = [t for t in self.template.ordinary if "im_start" in t or t in {"<｜User｜>", "<｜Assistant｜>"}]  # noqa: RUF001
        return [self.tokenizer.convert_tokens_to_ids(text) for text in (*self.template.special, *turns)]


def read_by(tokeniser: Tokeniser, pair: Pair) -> TokenisedPair:
    (tokens,) = tokeniser.tokenise([pair])
    assert isinstance(tokens, TokenisedPair), tokens
    return tokens


def check_places(reader: Reader, pair: Pair, tokens: TokenisedPair) -> None:
    """Every scored token cuts its own text out of the caller's; texts that are not covered are named."""
    texts = texts_of(pair)
    covered: dict[str, set[int]] = {name: set() for name in texts}
    for name, start, end, spelled in scored(reader, pair, tokens):
        cut = texts[name][start:end]
        cut = cut if reader.template.pieces == "bytes" else cut.replace("▁", " ")
        assert cut
        # A token holds a character or more, or some bytes of one. JSON writes some characters otherwise, and some
        # tokenizers put a space before a text.
        put = spelled == b" " and reader.template.pieces in {"words", "characters behind ▁"}
        whole = spelled in cut.encode() or cut.encode() in spelled
        assert whole or put or any(letter in '"\\\r\n\t' for letter in cut), (name, cut, spelled)
        covered[name] |= set(range(start, end))
    for name, text in texts.items():
        missing = "".join(letter for place, letter in enumerate(text) if place not in covered[name]).strip()
        first = name == "response" and tokens.segments[0] == Segment.RESPONSE
        lost = (*tokens.coverage.unlocated, *tokens.coverage.shortened)
        assert bool(missing) == (name in lost) or first, (name, missing)
        assert not covered[name] or name not in tokens.coverage.unlocated


def texts_of(pair: Pair) -> dict[str, str]:
    """The caller's texts by the names of their fields."""
    history = {f"history[{number}].content": turn.content for number, turn in enumerate(pair.history)}
    return {**history, "prompt": pair.prompt, "response": pair.response}


def scored(reader: Reader, pair: Pair, tokens: TokenisedPair) -> Iterator[tuple[str, int, int, bytes]]:
    """The text, start, end and own bytes of each token that is scored."""
    written = reader.tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    for text, segment, turn, start, end in zip(
        written, tokens.segments, tokens.turns, tokens.starts, tokens.ends, strict=True
    ):
        if segment:
            name = {Segment.PROMPT: "prompt", Segment.RESPONSE: "response"}.get(segment, f"history[{turn}].content")
            yield name, int(start), int(end), spelling(reader, text)


def spelling(reader: Reader, token: str) -> bytes:
    """The bytes that a token stands for."""
    if token in reader.template.ordinary and reader.template.pieces == "bytes":
        return token.encode()
    if reader.template.pieces == "bytes":
        return bytes(BYTE_OF_LETTER[letter] for letter in token)
    return (
        bytes([int(token[3:5], 16)])
        if len(token) == 6 and token.startswith("<0x")
        else token.replace("▁", " ").encode()
    )
