"""Tokens are made beside the event loop, of the pairs of several calls at once where several wait."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, TypeAlias

from scopewatch.errors import InvalidRequest
from scopewatch.types import Cleaning, Pair, TokenisedPair

Outcome: TypeAlias = tuple[TokenisedPair, ...] | InvalidRequest
Readings: TypeAlias = Callable[[Sequence[Pair], Sequence[Cleaning]], list[Outcome]]
"""Pairs in, and how each is to be cleaned; for each its readings, or what is wrong with it. Blocks."""
_TOGETHER = 32
"""How many pairs are taken together; more would make none of them cheaper, and the first ones late."""


class _Call(NamedTuple):
    pairs: Sequence[Pair]
    cleanings: Sequence[Cleaning]
    answer: "asyncio.Future[list[Outcome]]"


class Tokenising:
    """Makes tokens of the pairs of calls. A lone call is begun at once; those that come meanwhile are taken together.

    A tokenizer takes as long for 32 texts in a row as for 20 one by one, and to change threads costs as much as a pair.

    Args:
        readings: The tokenizer.
        thread: Where it runs, one job at a time.
    """

    def __init__(self, readings: Readings, thread: Executor) -> None:
        self._readings = readings
        self._thread = thread
        self._waiting: list[_Call] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, pairs: Sequence[Pair], cleanings: Sequence[Cleaning]) -> list[Outcome]:
        """The readings of each pair of a call, or what is wrong with it."""
        call = _Call(pairs, cleanings, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if not self._running:
            self._running = asyncio.create_task(self._run(), name="tokenise")
        return await call.answer

    async def _run(self) -> None:
        try:
            while calls := self._next():
                await self._answer(calls)
        finally:
            self._running = None

    def _next(self) -> list[_Call]:
        """The calls that waited longest, of those that somebody waits for."""
        waiting = [call for call in self._waiting if not call.answer.done()]
        taken = pairs = 0
        while taken < len(waiting) and (not taken or pairs + len(waiting[taken].pairs) <= _TOGETHER):
            pairs += len(waiting[taken].pairs)
            taken += 1
        self._waiting = waiting[taken:]
        return waiting[:taken]

    async def _answer(self, calls: Sequence[_Call]) -> None:
        pairs = [pair for call in calls for pair in call.pairs]
        cleanings = [cleaning for call in calls for cleaning in call.cleanings]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._readings, pairs, cleanings)
        except Exception as error:
            if len(calls) > 1:
                # What nobody foresaw is of one of them alone.
                for call in calls:
                    await self._answer([call])
            elif not calls[0].answer.done():
                calls[0].answer.set_exception(error)
            return
        made = iter(outcomes)
        for call in calls:
            own = [next(made) for _ in call.pairs]
            if not call.answer.done():
                call.answer.set_result(own)
