"""A real server whose engine takes no time, or as long as it is told; run by `host.py`, in a process of its own.

    python bench/null_server.py [--batch-ms MS --tokens-per-s N] [--profile FILE]

Settings come from SCOPEWATCH_ variables. gRPC, tokenizer, cache, watchlist, metrics and log are the real ones. What a
text fires is cut out of what the real reader made of one long text, so that there is as much to judge.
"""

import argparse
import asyncio
import cProfile
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import scopewatch.app.server
from scopewatch.app.load import Loaded, load
from scopewatch.app.server import Server
from scopewatch.config import Config, load_config
from scopewatch.logs.sole_output import sole_output
from scopewatch.types import Activations, EncodedBatch, Pair, TokenIds
from subjects import pairs


class NullRunner:
    """Answers batches with stored activations; for all else it is the real runner.

    Args:
        real: The real runner, which reads one text.
        stored: What that text is.
        batch_s: The seconds that it takes for any batch.
        token_s: The seconds that it takes for each token.
    """

    def __init__(self, real: Any, stored: TokenIds, *, batch_s: float, token_s: float) -> None:
        self._real = real
        encoded = real([stored])
        (self._stored,), self._table = encoded.activations, encoded.table
        self._batch_s, self._token_s = batch_s, token_s

    def __call__(self, batch: Sequence[TokenIds]) -> EncodedBatch:
        started = time.perf_counter()
        activations = [self._cut(len(ids)) for ids in batch]
        ends = started + self._batch_s + self._token_s * sum(map(len, batch))
        # A device computes while the interpreter is free for others.
        time.sleep(max(0.0, ends - time.perf_counter()))
        return EncodedBatch(activations, time.perf_counter() - started, 0.0, table=self._table)

    def _cut(self, n_tokens: int) -> Activations:
        end = int(np.searchsorted(self._stored.token, n_tokens))
        return Activations(n_tokens, self._stored.token[:end], self._stored.column[:end], self._stored.value[:end])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-ms", type=float, default=0.0, help="time of any batch (default: 0)")
    parser.add_argument("--tokens-per-s", type=float, default=float("inf"), help="tokens read a second (default: inf)")
    parser.add_argument("--profile", type=Path, help="write what cProfile sees of the event loop here")
    args = parser.parse_args()

    def null(config: Config) -> Loaded:
        loaded = load(config)
        (long,) = pairs([loaded.engine.max_tokens - 100], salt=10**6 + 1)
        (read,) = loaded.engine.tokeniser.tokenise([Pair(long.prompt, long.response)])
        real: Any = loaded.engine
        real.runner = NullRunner(real.runner, read.ids, batch_s=args.batch_ms / 1000, token_s=1 / args.tokens_per_s)
        return loaded

    scopewatch.app.server.load = null  # type: ignore[attr-defined]
    config = load_config()

    async def serve() -> int:
        return await Server(config).run()

    profile = cProfile.Profile() if args.profile else None
    with sole_output(config.log_level, config.log_format), profile or nullcontext():
        code = asyncio.run(serve())
    if profile:
        profile.dump_stats(args.profile)
    os._exit(code)


if __name__ == "__main__":
    main()
