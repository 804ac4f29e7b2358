"""From a pair of texts to the tokens the reader reads, each with its place in the caller's own text."""

import hashlib
import json
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path

import numpy as np

from scopewatch.errors import FieldViolation, InvalidRequest, ReaderError
from scopewatch.reader.text.chat_template import TemplateError, TemplateSyntaxError
from scopewatch.reader.text.conversation import Conversations
from scopewatch.reader.text.located import Tokens, locate
from scopewatch.reader.text.parts import Part, Parts, joined_parts, parts_of
from scopewatch.reader.text.traced import pieces_of
from scopewatch.reader.text.vocabulary import Vocabulary
from scopewatch.reader.text.windows import windows
from scopewatch.sources import Rendering
from scopewatch.types import Cleaning, Int32, Pair, Segment, TemplateInputs, TokenisedPair

_SCHEME = 1
"""The version of how this module makes tokens of texts; it is in the rendering's digest."""
_CLEANED = {Cleaning.NONE: (False,), Cleaning.BESIDE: (False, True), Cleaning.INSTEAD: (True,)}
"""Which readings each kind of cleaning wants: the plain one, the cleaned one."""
Outcome = TokenisedPair | InvalidRequest


class Tokeniser:
    """Renders and tokenises pairs, and chooses what is read of them.

    What is read is what the serving model saw: the chat template's rendering of everything before the answer, with its
    generation prompt, and then the answer's own tokens. A reader without a chat template reads the texts one behind the
    other, with `Rendering.separator` between them. Whether BOS stands first is as tokenizer and template say. The
    answer's end-of-turn token is not read: nothing is behind it that could be scored.

    Tokens of the template and special tokens are read and belong to no segment. Nor does the first token, whatever it
    is: attention sinks there, and its activations are of another size than all others.

    Args:
        directory: The reader's directory, which holds a fast tokenizer.
        max_tokens: The most tokens of one pass over a pair, all included.
        max_windows: The most passes over a long answer.
        rendering: The reader's settings; those of a watchlist that says nothing by default.

    Raises:
        ReaderError: The directory has no usable tokenizer.
    """

    def __init__(
        self, directory: Path, *, max_tokens: int, max_windows: int = 1, rendering: Rendering | None = None
    ) -> None:
        self._rendering = rendering or Rendering()
        self._vocabulary = Vocabulary(directory)
        self._max_tokens = max_tokens
        self._max_windows = max_windows
        self._conversations = Conversations(self._vocabulary, self._rendering)
        self._digest = lru_cache(256)(self._digest_of)
        self._try_template(directory)

    def for_passes(self, max_tokens: int, max_windows: int) -> "Tokeniser":
        """This tokeniser for at most so many passes of at most so many tokens, whatever its own are."""
        other = copy(self)
        other._max_tokens, other._max_windows = max_tokens, max_windows  # noqa: SLF001 - its own class
        return other

    @property
    def size(self) -> int:
        """One more than the highest id of a token."""
        return self._vocabulary.size

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens, which never count."""
        return frozenset(np.flatnonzero(self._vocabulary.is_special).tolist())

    @property
    def bos(self) -> str:
        """What the settings say of BOS: `files`, `always` or `never`."""
        return self._rendering.bos

    @property
    def has_bos(self) -> bool:
        """Whether the tokenizer has a BOS token."""
        return self._vocabulary.bos is not None

    @property
    def reads_bos(self) -> bool:
        """Whether an ordinary pair is read with BOS first."""
        read = self.tokenise([Pair("a", "b")])[0]
        return isinstance(read, TokenisedPair) and read.ids[0] == self._vocabulary.bos

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self._conversations.has_template

    @property
    def template_digest(self) -> str:
        """SHA-256 of the chat template; empty if there is none."""
        if not self.has_chat_template:
            return ""
        template = self._vocabulary.tokenizer.chat_template
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def rendering_digest(self) -> str:
        """SHA-256 over all that decides what is read of a pair whose caller gives nothing but texts."""
        return self._digest(self._inputs(TemplateInputs()))

    def tokenise(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Tokenises pairs; each succeeds or fails alone."""
        readings = self.readings(pairs, [Cleaning.NONE] * len(pairs))
        return [one if isinstance(one, InvalidRequest) else one[0] for one in readings]

    def readings(
        self, pairs: Sequence[Pair], cleanings: Sequence[Cleaning]
    ) -> list[tuple[TokenisedPair, ...] | InvalidRequest]:
        """Tokenises each pair as often as its watchlist wants it read; each pair succeeds or fails alone.

        Args:
            pairs: The pairs.
            cleanings: What the watchlist of each pair wants. Beside texts that cleaning leaves as they are nothing else
                is read.

        Returns:
            The readings of each pair, at least one; the first is as the caller sent it, unless only the cleaned one is
            wanted.
        """
        wanted: list[tuple[int, Pair, Parts]] = []
        failed: dict[int, InvalidRequest] = {}
        for number, (pair, cleaning) in enumerate(zip(pairs, cleanings, strict=True)):
            for cleaned in _CLEANED[cleaning]:
                parts = self._parts(pair, cleaned=cleaned)
                if isinstance(parts, InvalidRequest):
                    failed[number] = parts
                elif parts.changed or not (cleaned and cleaning is Cleaning.BESIDE):
                    wanted.append((number, pair, parts))
        found: dict[int, list[TokenisedPair]] = {}
        for (number, _, _), outcome in zip(wanted, self._tokenised([each[1:] for each in wanted]), strict=True):
            if isinstance(outcome, InvalidRequest):
                failed[number] = outcome
            else:
                found.setdefault(number, []).append(outcome)
        return [failed.get(number) or tuple(found[number]) for number in range(len(pairs))]

    def token_texts(self, ids: Int32) -> list[str]:
        """Each token as the vocabulary writes it."""
        return [str(text) for text in self._vocabulary.tokenizer.convert_ids_to_tokens(ids.tolist())]

    def _parts(self, pair: Pair, *, cleaned: bool) -> Parts | InvalidRequest:
        try:
            return parts_of(pair, self._vocabulary, self._conversations, cleaned=cleaned)
        except InvalidRequest as error:
            return error

    def _tokenised(self, pairs: Sequence[tuple[Pair, Parts]]) -> list[Outcome]:
        if self.has_chat_template:
            heads = self._encode([parts.head for _, parts in pairs], as_whole=False)
            answers = self._encode([parts.answer for _, parts in pairs], as_whole=False)
        else:
            heads, answers = self._plain([parts for _, parts in pairs])
        return [
            self._assemble(pair, parts, head, answer)
            for (pair, parts), head, answer in zip(pairs, heads, answers, strict=True)
        ]

    def _plain(self, pairs: Sequence[Parts]) -> tuple[list[Tokens], list[Tokens]]:
        """The tokens before each answer, and the answers', where without a template a pair is one text."""
        wholes = [parts.head if parts.given else joined_parts(parts.head, parts.answer) for parts in pairs]
        answers = iter(self._encode([parts.answer for parts in pairs if parts.given], as_whole=False))
        found: tuple[list[Tokens], list[Tokens]] = [], []
        for parts, tokens in zip(pairs, self._encode(wholes, as_whole=True), strict=True):
            response = np.flatnonzero(tokens.segments == Segment.RESPONSE)
            at = response[0] if len(response) else len(tokens)
            found[0].append(tokens[:at])
            found[1].append(next(answers) if parts.given else tokens[at:])
        return found

    def _encode(self, parts: Sequence[Part], *, as_whole: bool) -> list[Tokens]:
        """The tokens of parts, each with its place."""
        made = iter(self._vocabulary.encode([part.text for part in parts if part.given is None], as_whole=as_whole))
        found = []
        for part in parts:
            encoded = part.given or next(made)
            tokens = locate(encoded, pieces_of(part.text), part.sources)
            tokens.scored[self._vocabulary.is_special[encoded.ids]] = False
            found.append(tokens)
        return found

    def _assemble(self, pair: Pair, parts: Parts, head: Tokens, answer: Tokens) -> Outcome:
        if parts.head.given is None:
            head = self._with_bos(head)
        if not len(head) + len(answer):
            return InvalidRequest(FieldViolation("response", "there is nothing to read: all texts are empty"))
        chosen = windows(head, answer, parts.says, max_tokens=self._max_tokens, max_windows=self._max_windows)
        tokens = chosen.tokens
        for array in (tokens.segments, tokens.turns, tokens.starts, tokens.ends):
            array[~tokens.scored] = 0
        inputs = "" if pair.prompt_token_ids else self._inputs(pair.inputs)
        exact = "prompt" * bool(pair.prompt_token_ids) + "response" * bool(pair.response_token_ids)
        return TokenisedPair(
            tokens.ids,
            tokens.segments,
            tokens.turns,
            tokens.starts,
            tokens.ends,
            chosen.coverage,
            chosen.window_tokens,
            self._digest(inputs, exact),
            parts.odd_shares,
            (*parts.head.sources, *parts.answer.sources),
        )

    def _with_bos(self, head: Tokens) -> Tokens:
        """The tokens with or without BOS in front, where the settings want it otherwise than the files."""
        bos, wanted = self._vocabulary.bos, self._rendering.bos
        if bos is None or wanted == "files":
            return head
        there = len(head) > 0 and head.ids[0] == bos
        if there:
            return head if wanted == "always" else head[1:]
        none = np.zeros(1, np.int32)
        first = Tokens(np.array([bos], np.int32), none.astype(np.int8), none, none, none, none.astype(np.bool_))
        return Tokens.joined([first, head]) if wanted == "always" else head

    def _inputs(self, own: TemplateInputs) -> str:
        """What the template is given beside the messages, as canonical JSON; empty where there is none."""
        return json.dumps(self._conversations.inputs(own), sort_keys=True) if self.has_chat_template else ""

    def _digest_of(self, inputs: str, exact: str = "") -> str:
        settings = self._rendering.model_dump(include={"special_tokens", "fold_system", "bos", "separator"})
        decides = [_SCHEME, self._vocabulary.digest, self.template_digest, settings, inputs, exact]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def _try_template(self, directory: Path) -> None:
        """Refuses a template that cannot be run at all: that is the operator's mistake, not a caller's."""
        try:
            if self.has_chat_template:
                self._conversations.try_template()
        except TemplateSyntaxError as error:
            raise ReaderError(f"reader {directory}: chat template, line {error.lineno}: {error.message}") from None
        except TemplateError:
            return  # It objects to this conversation; it may like others.
        except Exception as error:
            raise ReaderError(f"reader {directory}: chat template: {type(error).__name__}: {error}") from None
