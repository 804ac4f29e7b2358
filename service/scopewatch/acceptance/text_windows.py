"""Ordinary text, such as SAEs are trained on, cut into windows of tokens with BOS in front; and its activations.

The bundled text, `ordinary.txt.gz`, is 18 passages of about 3,000 characters from the middle of novels that are in the
public domain, as Project Gutenberg transcribed them: A Tale of Two Cities, Alice's Adventures in Wonderland, Anne of
Green Gables, Dracula, Emma, Frankenstein, Great Expectations, Jane Eyre, Little Women, Middlemarch, Moby Dick, Pride
and Prejudice, The Adventures of Sherlock Holmes, The Secret Garden, The Time Machine, The War of the Worlds, The
Wonderful Wizard of Oz, Treasure Island.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scopewatch.engine.passes import Passes, untouched
from scopewatch.errors import DataError, ReaderError
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader
from scopewatch.reader.prefixes import Reading

BUNDLED = Path(__file__).with_name("ordinary.txt.gz")
WINDOW_TOKENS = 512
"""The most tokens in a window."""
_MAX_CHARACTERS = 4 << 20
"""The most characters that are read of a text file."""
LEAST_TOKENS = 256
"""The fewest tokens that anything can be measured on."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that the reader reads together, n of them."""

    ids: NDArray[np.int64]
    """Token ids, shape (n,)."""
    counted: NDArray[np.bool_]
    """Which tokens are measured on, shape (n,): not position 0 and special tokens, where SAEs were not trained."""


def load_tokenizer(directory: Path, reader: Reader) -> PreTrainedTokenizerFast:
    """The tokenizer of a reader.

    Raises:
        ReaderError: The directory has none, or it belongs to another model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ReaderError(f"reader {directory}: no usable tokenizer: {str(error).splitlines()[0]}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ReaderError(f"reader {directory}: {type(tokenizer).__name__} is not a fast tokenizer")
    if len(tokenizer) > reader.vocabulary:
        raise ReaderError(
            f"reader {directory}: the tokenizer has {len(tokenizer)} tokens, the model embeds {reader.vocabulary}; "
            "they do not belong together"
        )
    return tokenizer


def read_text(file: Path | None) -> str:
    """The first 4 million characters of a text file, or without a file the bundled text.

    Raises:
        DataError: The file cannot be read, or is not UTF-8 text.
    """
    if file is None:
        return gzip.decompress(BUNDLED.read_bytes()).decode()
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_MAX_CHARACTERS)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{file}: not UTF-8 text; expected plain prose")
    return text


def windows_of(
    text: str, tokenizer: PreTrainedTokenizerFast, *, name: str, context: int, max_tokens: int
) -> list[Window]:
    """Windows spread evenly over a text, as many as give `max_tokens` tokens that count.

    Args:
        text: The text.
        tokenizer: The reader's tokenizer.
        name: What the text is called in an error.
        context: The most tokens that the reader can read together.
        max_tokens: The most tokens that count.

    Raises:
        DataError: The text is too short to measure anything on.
    """
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    room = min(WINDOW_TOKENS, context) - 1
    count = -(-min(len(ids), max_tokens) // room)
    length = min(room, -(-len(ids) // max(1, count)))
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    windows = [window_of(ids[start : start + length], tokenizer, length + 1) for start in starts]
    left = max_tokens
    for window in windows:
        window.counted[np.flatnonzero(window.counted)[left:]] = False
        left -= int(window.counted.sum())
    if max_tokens - left < LEAST_TOKENS:
        raise DataError(f"{name}: {max_tokens - left} tokens of text; at least {LEAST_TOKENS} are needed")
    return windows


def window_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerFast, length: int) -> Window:
    """The first `length` of the given token ids, behind BOS if the tokenizer has one and they do not begin with it."""
    bos = [] if tokenizer.bos_token_id in (None, *ids[:1]) else [tokenizer.bos_token_id]
    whole = np.array([*bos, *ids][:length], np.int64)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    # The unknown token stands for text.
    counted = ~np.isin(whole, sorted(special - {tokenizer.unk_token_id}))
    counted[:1] = False
    return Window(whole, counted)


def shortened(windows: Sequence[Window], count: int, length: int) -> list[Window]:
    """The first `length` tokens of `count` windows, evenly chosen among those given."""
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).round().astype(int))
    return [Window(windows[i].ids[:length], windows[i].counted[:length]) for i in chosen]


@torch.inference_mode()
def activations(
    reader: Reader, windows: Sequence[Window], hookpoints: Sequence[Hookpoint]
) -> dict[Hookpoint, torch.Tensor]:
    """The activations of the tokens that count at each hookpoint, (tokens, width) in float32, on the reader's device.

    Raises:
        SaeError: The reader has no such hookpoint.
    """
    passes = Passes(reader)
    taps = dict.fromkeys(hookpoints, untouched)
    found: dict[Hookpoint, list[torch.Tensor]] = {hookpoint: [] for hookpoint in hookpoints}
    for window in windows:
        row = passes.read([Reading(window.ids.astype(np.int32), ())], taps)
        counted = passes.on_device(np.flatnonzero(window.counted))
        for hookpoint, parts in found.items():
            parts.append(row.tapped[hookpoint][counted].float())
    return {hookpoint: torch.cat(parts) for hookpoint, parts in found.items()}
