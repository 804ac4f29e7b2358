"""Tokens of several calls are made together, and each call gets its own."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from scopewatch.app.tokenising import Tokenising
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.types import Cleaning, Pair

PLAIN = Cleaning.NONE


class HeldThread(Executor):
    """Does a job when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Any, tuple[Any, ...]]] = []

    def submit(self, work: Any, /, *args: Any, **_kwargs: Any) -> Future[Any]:
        self.jobs.append((Future(), work, args))
        return self.jobs[-1][0]

    async def work(self) -> list[str]:
        """Does the oldest job; the responses of its pairs."""
        await settle()
        done, work, args = self.jobs.pop(0)
        try:
            done.set_result(work(*args))
        except ValueError as error:
            done.set_exception(error)
        await settle()
        return [pair.response for pair in args[0]]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def readings(pairs: Sequence[Pair], cleanings: Sequence[Cleaning]) -> list[Any]:
    """In place of readings, what is to be read; some pairs are refused, and some break the tokenizer."""
    if any(pair.response == "broken" for pair in pairs):
        raise ValueError("broken")
    refused = InvalidRequest(FieldViolation("response", "is refused"))
    return [refused if p.response == "refused" else (p.response, c) for p, c in zip(pairs, cleanings, strict=True)]


def ask(tokenising: Tokenising, *responses: str, cleaning: Cleaning = PLAIN) -> asyncio.Task[Any]:
    return asyncio.ensure_future(tokenising([Pair("", one) for one in responses], [cleaning] * len(responses)))


async def test_a_lone_call_is_begun_at_once_and_those_that_come_meanwhile_are_taken_together() -> None:
    thread = HeldThread()
    tokenising = Tokenising(readings, thread)
    first = ask(tokenising, "a")
    await settle()
    others = [ask(tokenising, "b", "refused"), ask(tokenising, "c", cleaning=Cleaning.INSTEAD)]
    assert await thread.work() == ["a"]
    assert await first == [("a", PLAIN)]
    assert await thread.work() == ["b", "refused", "c"]
    kept, refused = await others[0]
    assert kept == ("b", PLAIN)
    assert isinstance(refused, InvalidRequest)
    assert await others[1] == [("c", Cleaning.INSTEAD)]
    assert not thread.jobs


async def test_no_more_than_32_pairs_are_taken_together_but_for_one_larger_call() -> None:
    thread = HeldThread()
    tokenising = Tokenising(readings, thread)
    sizes = [1, 20, 12, 1, 40, 5]
    calls = []
    for size in sizes:
        calls.append(ask(tokenising, *map(str, range(size))))
        await settle()
    assert [len(await thread.work()) for _ in range(5)] == [1, 32, 1, 40, 5]
    assert [len(await call) for call in calls] == sizes


async def test_what_breaks_on_one_call_does_not_break_those_taken_with_it() -> None:
    thread = HeldThread()
    tokenising = Tokenising(readings, thread)
    first = ask(tokenising, "a")
    await settle()
    before, broken, behind = ask(tokenising, "b"), ask(tokenising, "broken"), ask(tokenising, "c")
    works = [await thread.work() for _ in range(5)]
    assert works == [["a"], ["b", "broken", "c"], ["b"], ["broken"], ["c"]]
    assert (await first, await before, await behind) == ([("a", PLAIN)], [("b", PLAIN)], [("c", PLAIN)])
    with pytest.raises(ValueError, match="broken"):
        await broken
    again = ask(tokenising, "d")
    assert await thread.work() == ["d"]
    assert await again == [("d", PLAIN)]


async def test_nothing_is_tokenised_for_who_has_left() -> None:
    thread = HeldThread()
    tokenising = Tokenising(readings, thread)
    first = ask(tokenising, "a")
    await settle()
    gone, stays = ask(tokenising, "b"), ask(tokenising, "c")
    await settle()
    gone.cancel()
    assert await thread.work() == ["a"]
    assert await thread.work() == ["c"]
    assert (await first, await stays) == ([("a", PLAIN)], [("c", PLAIN)])
    assert gone.cancelled()
