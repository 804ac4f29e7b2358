"""From a pair of texts to the tokens the reader reads, each with its place in the caller's own text."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scopewatch.errors import FieldViolation, InvalidRequest, ReaderError
from scopewatch.types import Bools, Coverage, Int8, Int32, Int64, Pair, Segment, TokenisedPair, Turn

PLAIN_SEPARATOR = "\n\n"
"""What stands between history, prompt and response when the tokenizer has no chat template."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of the rendered text that is the caller's."""

    start: int
    end: int
    segment: Segment
    turn: int
    offset: int
    """Position in the caller's text minus position in the rendered text."""


@dataclass(frozen=True, slots=True)
class _Rendering:
    text: str
    spans: tuple[_Span, ...]


class Tokeniser:
    """Renders, tokenises and truncates pairs.

    With a chat template the pair is rendered by it; without one, the non-empty texts are joined by an empty line.
    BOS comes first either way, once, if the tokenizer has one. Template, separator and special tokens are read but
    belong to no segment; a special token written out in the caller's text is parsed as one, as a serving engine would.
    Nor does the first token, whatever it is: attention sinks there, and its activations are of another size than all
    others. So a reader without BOS and template, such as a base model of Qwen, scores text from its second token on.

    A pair longer than `max_tokens` loses its oldest content first: history from its start, then the prompt from its
    start, and only if the response alone does not fit, the response from its end. The first token and template tokens
    around the prompt and the response stay.

    Args:
        directory: Reader directory with a fast tokenizer.
        max_tokens: Most tokens of a pair, all included.

    Raises:
        ReaderError: The directory has no usable tokenizer.
    """

    def __init__(self, directory: Path, *, max_tokens: int) -> None:
        # Without the file transformers makes up an empty vocabulary for some model types.
        if not (directory / "tokenizer.json").is_file():
            raise ReaderError(f"reader {directory}: tokenizer.json is missing; exact offsets need a fast tokenizer")
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise ReaderError(f"reader {directory}: no usable tokenizer: {str(error).splitlines()[0]}") from None
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ReaderError(f"reader {directory}: {type(tokenizer).__name__} gives no exact offsets; use a fast one")
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._max_tokens = max_tokens
        self._bos = tokenizer.bos_token_id
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        # The unknown token stands for text, unless it is one of these by another name, as in Qwen's tokenizers.
        unknown = {tokenizer.unk_token_id} - {self._bos, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self._special = np.array(sorted(special - unknown), np.int64)
        self._skeleton = lru_cache(maxsize=256)(self._render_skeleton)
        self._try_template(directory)

    @property
    def size(self) -> int:
        """Number of tokens; ids are below it."""
        return len(self._tokenizer)

    @property
    def has_chat_template(self) -> bool:
        return self._tokenizer.chat_template is not None

    @property
    def template_digest(self) -> str:
        """SHA-256 of the chat template; empty if there is none."""
        if not self.has_chat_template:
            return ""
        return hashlib.sha256(str(self._tokenizer.get_chat_template()).encode()).hexdigest()

    def tokenise(self, pairs: Sequence[Pair]) -> list[TokenisedPair | InvalidRequest]:
        """Tokenises pairs; each succeeds or fails alone."""
        renderings = [self._render(pair) for pair in pairs]
        good = [rendering for rendering in renderings if isinstance(rendering, _Rendering)]
        encodings = iter(
            self._backend.encode_batch(
                [rendering.text for rendering in good], add_special_tokens=not self.has_chat_template
            )
        )
        return [
            rendering if isinstance(rendering, InvalidRequest) else self._assemble(rendering, next(encodings))
            for rendering in renderings
        ]

    def token_texts(self, ids: Int32) -> list[str]:
        """Each token as the vocabulary writes it."""
        return [str(text) for text in self._tokenizer.convert_ids_to_tokens(ids.tolist())]

    def _render(self, pair: Pair) -> _Rendering | InvalidRequest:
        try:
            return self._render_chat(pair) if self.has_chat_template else _render_plain(pair)
        except TemplateError as error:
            # The only caller's choice a template can object to is the order or the names of the roles.
            return InvalidRequest(FieldViolation("history", f"the reader's chat template refuses it: {error.message}"))
        except InvalidRequest as error:
            return error

    def _render_chat(self, pair: Pair) -> _Rendering:
        turns = [*pair.history, Turn("user", pair.prompt), Turn("assistant", pair.response)]
        text = str(self._apply_template(turns))
        literals = self._skeleton(tuple(turn.role for turn in turns))
        spans: list[_Span] = []
        position = len(literals[0])
        for index, (turn, literal) in enumerate(zip(turns, literals[1:], strict=True)):
            trimmings = [t for t in _trimmings(turn.content) if text.startswith(t[1], position)]
            fitting = [t for t in trimmings if text.startswith(literal, position + len(t[1]))]
            if not fitting:
                # If the content stands as it was sent, the next one made the template write something else between.
                field = _field(min(index + bool(trimmings), len(turns) - 1), len(turns))
                raise InvalidRequest(FieldViolation(field, "the reader's chat template rewrites it"))
            cut, placed = fitting[0]
            spans.append(_span(position, placed, cut, index, len(turns)))
            position += len(placed) + len(literal)
        if position != len(text):
            raise InvalidRequest(FieldViolation("response", "the reader's chat template rewrites it"))
        return _Rendering(text, tuple(spans))

    def _try_template(self, directory: Path) -> None:
        """Refuses a template that cannot be run at all: that is the operator's mistake, not a caller's."""
        try:
            if self.has_chat_template:
                self._apply_template([Turn("user", "a"), Turn("assistant", "b")])
        except TemplateSyntaxError as error:
            raise ReaderError(f"reader {directory}: chat template, line {error.lineno}: {error.message}") from None
        except TemplateError:
            return  # It objects to this conversation; it may like others.
        except Exception as error:
            raise ReaderError(f"reader {directory}: chat template: {type(error).__name__}: {error}") from None

    def _render_skeleton(self, roles: tuple[str, ...]) -> list[str]:
        """The template's own text before, between and after the contents."""
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        text = str(self._apply_template([Turn(role, mark) for role, mark in zip(roles, marks, strict=True)]))
        literals = re.split("\ue000[0-9]+\ue001", text)
        if re.findall("\ue000[0-9]+\ue001", text) != marks:
            raise InvalidRequest(
                FieldViolation("history", "the reader's chat template leaves out or reorders a message")
            )
        return literals

    def _apply_template(self, turns: Sequence[Turn]) -> object:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return self._tokenizer.apply_chat_template(messages, tokenize=False)

    def _assemble(self, rendering: _Rendering, encoding: Any) -> TokenisedPair | InvalidRequest:
        ids, offsets, added = self._with_bos(encoding)
        if not len(ids):
            return InvalidRequest(FieldViolation("response", "there is nothing to read: all texts are empty"))
        segments, turns, starts, ends = _locate(offsets, rendering.spans)
        # Special tokens the caller wrote out are not scored, but are cut like the text around them.
        kept = _kept(np.where(added, Segment.TEMPLATE, segments), self._max_tokens)
        template = added | np.isin(ids, self._special)
        template[0] = True
        for array in (segments, turns, starts, ends):
            array[template] = 0
        response = segments == Segment.RESPONSE
        if kept.sum() > self._max_tokens or (response.any() and not response[kept].any()):
            return InvalidRequest(
                FieldViolation("history", f"the template leaves the response no room in max_tokens={self._max_tokens}")
            )
        coverage = _coverage(segments[kept], segments[~kept])
        return TokenisedPair(ids[kept], segments[kept], turns[kept], starts[kept], ends[kept], coverage)

    def _with_bos(self, encoding: Any) -> tuple[Int32, Int32, Bools]:
        """Ids, offsets of shape (n_tokens, 2), and which tokens no text holds; behind BOS, if the tokenizer has one."""
        ids = np.array(encoding.ids, np.int32)
        offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        added = np.array(encoding.special_tokens_mask, np.bool_)
        if self._bos is not None and (not len(ids) or ids[0] != self._bos):
            return np.insert(ids, 0, self._bos), np.insert(offsets, 0, 0, axis=0), np.insert(added, 0, True)
        return ids, offsets, added


def _coverage(read: Int8, dropped: Int8) -> Coverage:
    """Counts the tokens of each segment among those that are read and those that are not."""

    def count(tokens: Int8, segment: Segment) -> int:
        return int((tokens == segment).sum())

    return Coverage(
        tokens=len(read),
        prompt_tokens=count(read, Segment.PROMPT),
        response_tokens=count(read, Segment.RESPONSE),
        history_tokens=count(read, Segment.HISTORY),
        prompt_tokens_dropped=count(dropped, Segment.PROMPT),
        response_tokens_dropped=count(dropped, Segment.RESPONSE),
        history_tokens_dropped=count(dropped, Segment.HISTORY),
    )


def _trimmings(content: str) -> Iterator[tuple[int, str]]:
    """What templates may leave of a content, each with the number of code points that is cut from its start."""
    for left in (content, content.lstrip("\n"), content.lstrip()):
        for placed in (left, left.rstrip("\n"), left.rstrip()):
            yield len(content) - len(left), placed


def _field(index: int, turns: int) -> str:
    return {turns - 2: "prompt", turns - 1: "response"}.get(index, f"history[{index}].content")


def _span(position: int, placed: str, cut: int, index: int, turns: int) -> _Span:
    segment = {turns - 2: Segment.PROMPT, turns - 1: Segment.RESPONSE}.get(index, Segment.HISTORY)
    turn = index if segment is Segment.HISTORY else 0
    return _Span(position, position + len(placed), segment, turn, cut - position)


def _render_plain(pair: Pair) -> _Rendering:
    parts = [turn.content for turn in pair.history] + [pair.prompt, pair.response]
    text = ""
    spans: list[_Span] = []
    for index, part in enumerate(parts):
        if part:
            text += PLAIN_SEPARATOR if text else ""
            spans.append(_span(len(text), part, 0, index, len(parts)))
            text += part
    return _Rendering(text, tuple(spans))


def _locate(offsets: Int32, spans: Sequence[_Span]) -> tuple[Int8, Int32, Int32, Int32]:
    """Segment, turn, start and end of every token; a token belongs to the span it overlaps, clipped to it.

    A token reaches to where the next one starts elsewhere. So the bytes of one character that fell back to byte tokens
    all have its place, though some tokenizers give an empty offset for all but one of them; and a letter has the place
    of the accents that were composed into it, though its offset leaves them out.
    """
    starts, ends = offsets[:, 0], _reach(offsets)
    full = [span for span in spans if span.end > span.start]
    if not full:
        zeros = np.zeros(len(offsets), np.int32)
        return zeros.astype(np.int8), zeros, zeros.copy(), zeros.copy()
    first = np.array([span.start for span in full])
    last = np.array([span.end for span in full])
    index = np.maximum(np.searchsorted(first, ends, side="left") - 1, 0)
    inside = (starts < last[index]) & (ends > first[index])
    offset = np.array([span.offset for span in full])[index]

    def where_inside(values: Int64) -> Int32:
        return np.where(inside, values, 0).astype(np.int32)

    return (
        where_inside(np.array([span.segment for span in full])[index]).astype(np.int8),
        where_inside(np.array([span.turn for span in full])[index]),
        where_inside(np.maximum(starts, first[index]) + offset),
        where_inside(np.minimum(ends, last[index]) + offset),
    )


def _reach(offsets: Int32) -> Int32:
    """Where each token ends, counting what lies between it and the next token that starts elsewhere."""
    order = np.maximum.accumulate(offsets[:, 0])
    behind = np.append(order, np.iinfo(np.int32).max)[np.searchsorted(order, order, side="right")]
    ends: Int32 = np.maximum(offsets[:, 1], behind)
    return ends


def _kept(segments: Int8, max_tokens: int) -> Bools:
    """Which tokens stay under the truncation rule; more than `max_tokens` when the template alone is longer."""
    kept = np.ones(len(segments), bool)
    over = len(segments) - max_tokens
    for segment in (Segment.HISTORY, Segment.PROMPT, Segment.RESPONSE):
        own = np.flatnonzero(segments == segment)
        if over <= 0 or not len(own):
            continue
        region = np.arange(max(own[0], 1), own[-1] + 1)
        gone = region[-over:] if segment is Segment.RESPONSE else region[:over]
        kept[gone] = False
        over -= len(gone)
    return kept
