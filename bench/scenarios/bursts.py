"""More calls at once than a server answers at once, from this process to one of its own."""

import asyncio
import itertools
import time
from collections import Counter

from scenarios.callers import count_but, new_texts, raw_stubs, scored
from scenarios.checks import Case, none_of
from servers import ServerProcess

_TIMEOUT_S = 120.0


def bursts(scale: float) -> list[Case]:
    """Sends 4,000 calls at once over one connection, and over sixteen."""
    return [asyncio.run(burst(max(1, round(4000 * scale)), connections)) for connections in (1, 16)]


async def burst(calls: int, connections: int) -> Case:
    """Sends so many calls at once over so many connections, and waits for all answers."""
    with ServerProcess() as server:
        async with raw_stubs(server.grpc_address, connections) as stubs:
            texts = itertools.islice(new_texts(12), calls)
            began_s = time.monotonic()
            outcomes = Counter(
                await asyncio.gather(
                    *(scored(stub, text, _TIMEOUT_S) for stub, text in zip(itertools.cycle(stubs), texts, strict=False))
                )
            )
            seconds = round(time.monotonic() - began_s, 1)
        server.stop()
    checks = [
        none_of("CANCELLED", outcomes["CANCELLED"]),
        none_of(
            "but OK or RESOURCE_EXHAUSTED with push-back",
            count_but(outcomes, "OK", "RESOURCE_EXHAUSTED with push-back"),
        ),
        none_of("calls without an answer", calls - outcomes.total()),
    ]
    return Case(f"{calls} calls over {connections}", checks, {"outcomes": dict(outcomes), "seconds": seconds})
