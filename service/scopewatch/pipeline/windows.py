"""Reading a pair window by window: what the engine says of each, put together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from scopewatch.pipeline.batcher import Encoded
from scopewatch.types import Caller, CoveredActivations, TokenIds, in_a_row

Submit = Callable[[TokenIds, float | None, int, Caller], Awaitable[Encoded]]
"""Token ids, deadline, tokens ahead and caller in, activations out: the batcher's way to the engine."""


async def encode_windows(
    windows: Sequence[TokenIds], submit: Submit, deadline_s: float | None, ahead_tokens: int, caller: Caller
) -> Encoded:
    """The activations of a pair's windows, whose tokens are counted through.

    Args:
        windows: The token ids of each window, at least one.
        submit: The way to the engine.
        deadline_s: When the caller stops waiting.
        ahead_tokens: What is computed first for the same call.
        caller: Whose pair it is.

    Raises:
        ScopewatchError: What the engine says of the first window that fails.
    """
    if len(windows) == 1:
        return await submit(windows[0], deadline_s, ahead_tokens, caller)
    starts = np.cumsum([0, *map(len, windows)], dtype=np.int32)
    tasks = [
        asyncio.ensure_future(submit(window, deadline_s, ahead_tokens + int(start), caller))
        for window, start in zip(windows, starts, strict=False)
    ]
    try:
        # As soon as one fails, the others need not be read.
        encoded = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    table = encoded[0].covered.table
    if any(one.covered.table is not table for one in encoded):
        # Between two of them the engine began to watch other features; that it does so again is rare.
        return await encode_windows(windows, submit, deadline_s, ahead_tokens, caller)
    return Encoded(
        CoveredActivations(in_a_row([one.covered.activations for one in encoded]), table),
        queue_s=max(one.queue_s for one in encoded),
        forward_s=sum(one.forward_s for one in encoded),
        encode_s=sum(one.encode_s for one in encoded),
    )
