"""Callers who ask in every way for texts whose answers are known, and what came of it."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.rpc import code_pb2

from scenarios.callers import outcome
from scenarios.known import Known
from scopewatch.v1 import monitor_pb2 as pb

BATCH = 256
_PAUSE_S = 0.05
"""How long a caller waits that was refused, or gave up."""


class Traffic:
    """Counts what callers asked for and were told.

    Args:
        known: The texts, and the right answers.
        stubs: The callers' stubs, by name.
        tokens: Their bearer tokens, by name.
    """

    def __init__(self, known: Known, stubs: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
        self._known = known
        self._stubs = stubs
        self._sent = {name: (("authorization", f"Bearer {token}"),) for name, token in tokens.items()}
        self._ids = itertools.count()
        self.over = asyncio.Event()
        self.items = self.answered = self.with_evidence = self.wrong = 0
        self.outcomes = Counter[str]()

    async def ask(self, name: str, seed: int, way: Callable[[str, random.Random], Awaitable[None]]) -> None:
        """Asks as one caller in one way, again and again."""
        dice = random.Random(seed)
        while not self.over.is_set():
            try:
                await way(name, dice)
                self.outcomes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.outcomes[outcome(error)] += 1
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    await asyncio.sleep(_PAUSE_S)
            except asyncio.CancelledError:
                self.outcomes["given up"] += 1
                await asyncio.sleep(_PAUSE_S)

    async def batch(self, name: str, dice: random.Random) -> None:
        """A batch, of which each item is judged."""
        requests = [self._request(dice, evidence=False) for _ in range(BATCH)]
        self.items += BATCH
        message = pb.BatchScoreRequest(requests=requests)
        results = (await self._stubs[name].BatchScore(message, timeout=30, metadata=self._sent[name])).results
        self.wrong += len(results) != BATCH
        for request, result in zip(requests, results, strict=False):
            if result.HasField("response"):
                self._judge(request, result.response)
            else:
                self.outcomes[f"item {code_pb2.Code.Name(result.status.code)}"] += 1

    async def single(self, name: str, dice: random.Random, timeout_s: float = 30.0) -> None:
        """A call for one text and its evidence."""
        request = self._request(dice, evidence=True)
        self.items += 1
        reply = await self._stubs[name].Score(request, timeout=timeout_s, metadata=self._sent[name])
        self._judge(request, reply)

    async def hurried(self, name: str, dice: random.Random) -> None:
        """A call whose time may be too short."""
        await self.single(name, dice, dice.uniform(0.001, 0.05))

    async def given_up(self, name: str, dice: random.Random) -> None:
        """A call that its caller gives up at some moment."""
        calling = asyncio.ensure_future(self.single(name, dice))
        await asyncio.wait([calling], timeout=dice.uniform(0, 0.03))
        calling.cancel()
        await calling

    def _request(self, dice: random.Random, *, evidence: bool) -> pb.ScoreRequest:
        text = dice.choice(self._known.texts)
        return pb.ScoreRequest(request_id=f"item {next(self._ids)}", response=text, include_evidence=evidence)

    def _judge(self, request: pb.ScoreRequest, reply: pb.ScoreResponse) -> None:
        self.answered += 1
        self.with_evidence += request.include_evidence
        self.wrong += self._known.is_wrong(request, reply)
