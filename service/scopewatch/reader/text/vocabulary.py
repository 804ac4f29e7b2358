"""A reader's tokenizer: from text to token ids and back, each with its place in the text."""

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from os.path import commonprefix
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import AutoTokenizer

from scopewatch.errors import ReaderError
from scopewatch.types import Bools, Int32, TokenIds

FILE = "tokenizer.json"
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNREADABLE = "\ufffd"
"""What stands for bytes that are no text, and for half a character of UTF-16."""
_MOST_PARTS = 64
"""The most tokens that are taken together for parts of what they decode to."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one text; arrays have shape (n_tokens,), offsets (n_tokens, 2)."""

    ids: TokenIds
    offsets: Int32
    """The first code point of each token in the text, and one past the last."""
    control: Bools
    """Whether a token is one that no text holds, such as BOS, or one that opens or closes a turn."""

    def part(self, start: int, end: int) -> "Encoded":
        """The tokens from one up to another."""
        return Encoded(self.ids[start:end], self.offsets[start:end], self.control[start:end])


class Vocabulary:
    """The tokenizer in a reader's directory.

    Control tokens are the special ones and those that the chat template writes around messages. Where text is text,
    they are known by stand-ins, which contain a random number: a caller who writes `<bos>` writes five characters.

    Args:
        directory: The reader's directory.

    Raises:
        ReaderError: The directory has no usable tokenizer.
    """

    def __init__(self, directory: Path) -> None:
        # Without the file transformers makes up an empty vocabulary for some model types.
        file = directory / FILE
        if not file.is_file():
            raise ReaderError(f"reader {directory}: {FILE} is missing; exact offsets need a fast tokenizer")
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            told = str(error).splitlines() or [type(error).__name__]
            raise ReaderError(f"reader {directory}: no usable tokenizer: {told[0]}") from None
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ReaderError(f"reader {directory}: {type(tokenizer).__name__} gives no exact offsets; use a fast one")
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _template_of_processor(directory)
        self.tokenizer = tokenizer
        self.size = 1 + max(tokenizer.get_vocab().values())
        """One more than the highest id; some vocabularies have gaps."""
        self.digest = _digest(file, tokenizer)
        """SHA-256 over the tokenizer's file and what its settings make of it."""
        self.bos: int | None = tokenizer.bos_token_id
        """The id of BOS, if there is one."""
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        # What the tokenizer puts around a whole text.
        around = self._backend.encode("a").special_tokens_mask
        text = [place for place, put in enumerate(around) if not put] or [len(around)]
        self._before, self._behind = text[0], max(len(around) - 1 - text[-1], 0)
        added = tokenizer.added_tokens_decoder
        special = {index for index, token in added.items() if token.special}
        # The unknown token stands for text, unless it is one of these by another name, as in Qwen's tokenizers.
        unknown = {tokenizer.unk_token_id} - {self.bos, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self.is_special: Bools = np.isin(np.arange(self.size), sorted(special - unknown))
        """Whether each id is that of a special token, shape (n_tokens,)."""
        self._silent = np.isin(np.arange(self.size), sorted(special))
        self._added = {str(token): (index, token) for index, token in added.items()}
        self._real_ids = np.arange(self.size, dtype=np.int32)
        self._control = np.zeros(self.size, np.bool_)
        self._guarded = np.zeros(self.size, np.bool_)
        self._stand_ins: dict[str, str] = {}
        self.control_tokens = re.compile("(?!)")
        """What finds control tokens where text is text, and nothing before `guard`."""

    @property
    def added_tokens(self) -> list[str]:
        """The tokens that are found in a text before it is split, special ones and others."""
        return list(self._added)

    def guard(self, turn_tokens: Iterable[str]) -> None:
        """Makes text of control tokens, wherever they are not put in by `stand_in`.

        Args:
            turn_tokens: Tokens that the chat template writes around messages, special or not.
        """
        names = {name for name, (_, token) in self._added.items() if token.special} | set(turn_tokens)
        if not names:
            return
        nonce = secrets.token_hex(8)
        self._stand_ins = {name: f"\ue000{nonce}{number}\ue001" for number, name in enumerate(sorted(names))}
        self._backend.add_special_tokens([AddedToken(name, special=True) for name in names])
        self._backend.encode_special_tokens = True
        self._backend.add_tokens([_like(self._added[name][1], text) for name, text in self._stand_ins.items()])
        ids = {
            self._added[name][0]: cast("int", self._backend.token_to_id(text)) for name, text in self._stand_ins.items()
        }
        self._real_ids = np.arange(max(self.size, *(one + 1 for one in ids.values())), dtype=np.int32)
        self._control = np.zeros(len(self._real_ids), np.bool_)
        self._guarded = np.zeros(len(self._real_ids), np.bool_)
        for real, stand_in in ids.items():
            self._real_ids[stand_in] = real
            self._control[stand_in] = self._silent[real] = True
            self._guarded[real] = real != self.tokenizer.unk_token_id
        self.control_tokens = re.compile(_any_of(names))

    def stand_in(self, token: str) -> str:
        """What is written for a control token that `control_tokens` found, so that it is read as one."""
        return self._stand_ins[token]

    def encode(self, texts: Sequence[str], *, as_whole: bool = False) -> list[Encoded]:
        """Splits texts into tokens.

        Args:
            texts: The texts; where text is text, their control tokens are stand-ins.
            as_whole: Whether each comes behind what the tokenizer puts before a whole text, such as BOS.
        """
        # Plain strings, since the library looks at no subclass.
        plain = [str.__str__(text) for text in texts]
        try:
            made = self._backend.encode_batch(plain, add_special_tokens=as_whole)
        except TypeError:
            # The library takes no half of a character, which JSON can hold.
            plain = [_SURROGATE.sub(_UNREADABLE, text) for text in plain]
            made = self._backend.encode_batch(plain, add_special_tokens=as_whole)
        return [self._encoded(one, text, as_whole=as_whole) for one, text in zip(made, plain, strict=True)]

    def decode(self, ids: Sequence[int]) -> tuple[str, Encoded]:
        """The text that tokens decode to, without control tokens, and the place of each token in it.

        A character that is made of several tokens is the place of them all.
        """
        array = np.array(ids, np.int32)
        control: Bools = self._silent[array]
        heard = array[~control].tolist()
        text = self._decoded(heard)
        offsets = np.zeros((len(ids), 2), np.int32)
        offsets[~control] = self._places(heard, text)
        return text, Encoded(array, offsets, control)

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._backend.decode(ids, skip_special_tokens=True)
        return text

    def _places(self, ids: Sequence[int], text: str) -> Int32:
        """The place of each token in the text that all decode to, shape (n_tokens, 2).

        Tokens are taken together until they decode to what stands next in the text. They are decoded behind those
        before them, since some tokenizers leave out a space at the beginning.
        """
        places = np.zeros((len(ids), 2), np.int32)
        context, first, place, before = 0, 0, 0, ""
        for last in range(1, len(ids) + 1):
            now = self._decoded(ids[context:last])
            fits = len(now) > len(before) and text.startswith(now, place - len(before))
            if not fits and last - first >= _MOST_PARTS:
                break
            if fits and (not now.endswith(_UNREADABLE) or last - first >= _MOST_PARTS):
                end = place + len(now) - len(before)
                places[first:last] = place, end
                context, first, place = first, last, end
                before = self._decoded(ids[context:last])
        places[first:] = min(place, max(len(text) - 1, 0)), len(text)
        return places

    def _encoded(self, encoding: Any, text: str, *, as_whole: bool = False) -> Encoded:
        """The tokens of an encoding of a text, without what is put behind a whole one."""
        end = len(encoding.ids) - self._behind * as_whole
        raw = np.array(encoding.ids[:end], np.int64)
        offsets = np.array(encoding.offsets[:end], np.int32).reshape(-1, 2)
        added = np.zeros(end, np.bool_)
        added[: self._before] = as_whole
        encoded = Encoded(self._real_ids[raw], offsets, added | self._control[raw])
        # One letter cannot be taken apart.
        forged = self._guarded[raw] & ~added & (offsets[:, 1] - offsets[:, 0] > 1)
        return self._as_text(encoded, text, np.flatnonzero(forged).tolist()) if forged.any() else encoded

    def _as_text(self, encoded: Encoded, text: str, forged: Sequence[int]) -> Encoded:
        """The tokens with others for the control tokens that the vocabulary made of letters: those of parts of them."""
        parts = []
        place = 0
        for number in forged:
            parts.append(encoded.part(place, number))
            place = number + 1
            start, end = encoded.offsets[number].tolist()
            for first, last in ((start, start + 1), (start + 1, end)):
                part = self._encoded(self._backend.encode(text[first:last], add_special_tokens=False), text[first:last])
                parts.append(Encoded(part.ids, part.offsets + first, part.control))
        parts.append(encoded.part(place, len(encoded.ids)))
        return Encoded(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Encoded)))


def _any_of(words: Collection[str]) -> str:
    """What finds any of the words, the longest that stands there, as a regular expression.

    It branches as the words do, letter by letter: some tokenizers have thousands of control tokens.
    """
    prefix = commonprefix(list(words))  # noqa: RUF071 - it is letters that are compared
    ends = prefix in words
    branches: dict[str, set[str]] = {}
    for word in words:
        rest = word[len(prefix) :]
        branches.setdefault(rest[:1], set()).add(rest)
    found = "|".join(_any_of(branch) for letter, branch in branches.items() if letter)
    return re.escape(prefix) + (f"(?:{found}){'?' * ends}" if found else "")


def _template_of_processor(directory: Path) -> str | None:
    """The chat template of multimodal models that keep it in a file of their processor; None without such a file.

    Raises:
        ReaderError: The file holds no template.
    """
    file = directory / "chat_template.json"
    if not file.is_file():
        return None
    try:
        template = json.loads(file.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        template = None
    if not isinstance(template, str):
        raise ReaderError(f"reader {directory}: chat_template.json: chat_template: expected a text")
    return template


def _like(token: AddedToken, text: str) -> AddedToken:
    """A token that is found as another one is, by another text."""
    return AddedToken(
        text,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=False,
    )


def _digest(file: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    made = hashlib.sha256(file.read_bytes())
    made.update(repr(sorted(tokenizer.special_tokens_map.items())).encode())
    # What the settings put around a text, such as `add_bos_token`.
    made.update(repr(tokenizer("a").input_ids).encode())
    return made.hexdigest()
