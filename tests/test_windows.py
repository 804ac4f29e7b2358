"""What is read of a pair that is longer than one pass: which of it goes first, and how long answers are read whole."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from conftest import House
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sources import Rendering
from scopewatch.types import Pair, Segment, TokenisedPair, Turn

PLENTY = 1_000_000
ANSWER = "It may rain 👩🏽‍🚀 tomorrow, perhaps. " * 3
PAIRS = {
    "no history": Pair("the quick brown fox", ANSWER),
    "history": Pair("hello world", ANSWER, tuple(Turn(r, "the fox") for r in ("user", "assistant") * 2)),
    "empty prompt": Pair("", ANSWER, (Turn("user", "hello"), Turn("assistant", "world"))),
    "special tokens inside": Pair("<eos><eos>the<bos>fox<eos>", "<pad>the<eos>dog<pad><pad>" + ANSWER),
    "empty answer": Pair("hello world, what is the answer to this question? " * 3, ""),
    "long before": Pair("hello world " * 20, "it may", (Turn("user", "the dog " * 20), Turn("assistant", "no"))),
    "both long": Pair("hello world " * 20, ANSWER, (Turn("user", "the dog " * 20), Turn("assistant", "no"))),
}
Token = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Reader:
    """A reader's tokeniser with limits to choose."""

    directory: Path
    rendering: Rendering

    def read(self, pair: Pair, *, max_tokens: int = PLENTY, max_windows: int = 1) -> TokenisedPair:
        limits = {"max_tokens": max_tokens, "max_windows": max_windows}
        (tokens,) = Tokeniser(self.directory, **limits, rendering=self.rendering).tokenise([pair])
        assert isinstance(tokens, TokenisedPair), tokens
        return tokens


@pytest.fixture(scope="module", params=["chat", "plain", "plain without BOS"])
def reader(request: pytest.FixtureRequest, house: House, plain_house: House) -> Reader:
    """A reader with a chat template, and readers without, one of which reads no BOS."""
    directory = (house if request.param == "chat" else plain_house).reader
    return Reader(directory, Rendering(bos="never" if "without" in request.param else "files"))


def rows(tokens: TokenisedPair) -> list[Token]:
    """The id, segment, turn, start and end of every token."""
    columns = (tokens.ids, tokens.segments, tokens.turns, tokens.starts, tokens.ends)
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


def cut_off(head: list[Token], budget: int, sink: Segment | None) -> list[Token]:
    """What stays before the answer: the history goes first and from its start, then the prompt, then all but the first.

    Args:
        head: The tokens before the answer.
        budget: The most tokens that may stay.
        sink: The segment of the first token, which counts for none.
    """
    kept = list(range(len(head)))
    for segment in (Segment.HISTORY, Segment.PROMPT, None):
        mine = [i for i in kept if segment is None or segment == (head[i][1] if i else sink)]
        if not mine:
            continue
        for place in [i for i in kept if max(mine[0], 1) <= i <= mine[-1]]:
            if len(kept) > budget:
                kept.remove(place)
    return [head[i] for i in kept]


def halves(tokens: TokenisedPair) -> tuple[list[Token], list[Token]]:
    """The tokens before the answer of a reading in one window that is whole, and the answer's."""
    number = len(tokens.ids) - tokens.coverage.response_tokens
    return rows(tokens)[:number], rows(tokens)[number:]


LIMITS = [16, 17, 19, 24, 31, 32, 50, 64, 100, 150]


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("max_windows", [1, 2, 3, 50])
def test_answers_are_read_in_windows(reader: Reader, pair: Pair, max_windows: int) -> None:
    """For every limit: each window fits it and begins with the same tokens, the oldest before the answer dropped; each
    token of the answer counts once, in order; each window but the first reads the end of the one before again; what is
    not read is counted.
    """
    head, answer = halves(reader.read(pair))
    texts = {Segment.HISTORY: pair.history and pair.history[0].content, Segment.PROMPT: pair.prompt}
    sink = next(segment for segment, text in texts.items() if text) if reader.rendering.bos == "never" else None
    for limit in LIMITS:
        before = cut_off(head, max(limit - len(answer), limit // 4), sink)
        tokens = reader.read(pair, max_tokens=limit, max_windows=max_windows)
        sizes = list(tokens.window_tokens or [len(tokens.ids)])
        windows = [rows(tokens)[end - size : end] for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]
        first, *later = windows

        assert before + answer[: limit - len(before)] == first
        assert all(len(window) <= limit for window in windows)
        context = [(index, 0, 0, 0, 0) for index, *_ in before]
        assert all(context == window[: len(before)] for window in later)
        place = len(first) - len(before)
        for window in later:
            again = [token[0] for token in window[len(before) :] if not token[1]]
            fresh = [token for token in window if token[1]]
            assert [token[0] for token in answer[place - len(again) : place]] == again
            assert answer[place : place + len(fresh)] == fresh
            assert fresh
            assert again
            place += len(fresh)
        assert place == len(answer) or len(windows) == max_windows
        assert place == len(answer) or len(windows[-1]) == limit
        check_counts(tokens, [head, answer], [before, answer[:place]], len(windows))


def check_counts(tokens: TokenisedPair, whole: list[list[Token]], kept: list[list[Token]], windows: int) -> None:
    """The coverage says how many tokens of each segment are read and how many are not."""

    def count(parts: list[list[Token]], segment: Segment) -> int:
        return sum(token[1] == segment for part in parts for token in part)

    says = tokens.coverage
    assert (len(tokens.ids), windows) == (says.tokens, says.windows)
    assert [count(kept, s) for s in (Segment.HISTORY, Segment.PROMPT, Segment.RESPONSE)] == [
        *(says.history_tokens, says.prompt_tokens, says.response_tokens)
    ]
    assert [count(whole, s) - count(kept, s) for s in (Segment.HISTORY, Segment.PROMPT, Segment.RESPONSE)] == [
        *(says.history_tokens_dropped, says.prompt_tokens_dropped, says.response_tokens_dropped)
    ]
    assert says.truncated == (whole != kept and any(says_dropped(tokens)))
    assert says.response_tokens == int((tokens.segments == Segment.RESPONSE).sum())


def says_dropped(tokens: TokenisedPair) -> list[int]:
    """The numbers of tokens of each segment that were dropped."""
    says = tokens.coverage
    return [says.history_tokens_dropped, says.prompt_tokens_dropped, says.response_tokens_dropped]


def test_a_pair_that_fits_is_one_window(reader: Reader) -> None:
    """Up to the last token that fits there is one window with everything in it, and one token more is dropped or moved."""
    whole = reader.read(PAIRS["no history"])
    number = len(whole.ids)

    assert rows(whole) == rows(reader.read(PAIRS["no history"], max_tokens=number, max_windows=9))
    assert () == reader.read(PAIRS["no history"], max_tokens=number, max_windows=9).window_tokens
    assert sum(says_dropped(reader.read(PAIRS["no history"], max_tokens=number - 1))) == 1


def test_windows_of_an_exact_answer_are_cut_alike(reader: Reader) -> None:
    """An answer that is given as tokens is read in windows as its text is."""
    pair = PAIRS["no history"]
    ids = reader.read(pair).ids[-reader.read(pair).coverage.response_tokens :].tolist()
    exact = Pair(pair.prompt, "", response_token_ids=tuple(ids))
    limits = {"max_tokens": 32, "max_windows": 9}

    assert rows(reader.read(pair, **limits)) == rows(reader.read(exact, **limits))
