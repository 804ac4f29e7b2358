"""Who explains pairs: this process, which loads what it needs, or a running server."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

from scopewatch.app.load import load
from scopewatch.app.spine import offline
from scopewatch.client import Client
from scopewatch.config import Config
from scopewatch.explanation import Explanation, Wants
from scopewatch.types import ScoreJob

Explain: TypeAlias = Callable[[ScoreJob], Explanation]
"""Tells why a pair gets its verdict. Raises a `ScopewatchError` where it cannot."""


@contextmanager
def explaining_here(config: Config, wants: Wants) -> Iterator[Explain]:
    """Explains in this process, which loads the reader whole, so that everything is told.

    Args:
        config: The settings, with a single watchlist.
        wants: What is wanted of each explanation.

    Raises:
        SetupError: Something cannot be loaded.
    """
    # What a server on this machine is set to is no matter here.
    whole = config.model_copy(update={"explain_whole": True, "max_explanations": 1, "shadow": ()})
    loaded = load(whole)
    with asyncio.Runner() as runner:
        running = AsyncExitStack()
        try:
            spine = runner.run(running.enter_async_context(offline(whole, loaded)))
            yield lambda job: runner.run(spine.explain(job, wants))
        finally:
            runner.run(running.aclose())


def explaining_by(client: Client, wants: Wants, *, watchlist: str, kept: bool) -> Explain:
    """Has a server explain.

    Args:
        client: A client of it.
        wants: What is wanted of each explanation.
        watchlist: The name of a watchlist that it has loaded; empty for its default one.
        kept: Whether pairs are those that the server keeps under their ids, and not the jobs' own.
    """

    def explain(job: ScoreJob) -> Explanation:
        fields = {"kept": job.request_id} if kept else _fields(job) | {"watchlist": watchlist}
        return client.explain(top=wants.top, ablate=wants.ablate, delete=wants.delete, **fields)

    return explain


def _fields(job: ScoreJob) -> dict[str, Any]:
    """A pair as the fields of a request."""
    pair = job.pair
    inputs = {name: value for name, value in asdict(pair.inputs).items() if value}
    return {
        "request_id": job.request_id,
        "prompt": pair.prompt,
        "response": pair.response,
        "history": pair.history,
        "template_inputs": {name: value if name == "date" else json.loads(value) for name, value in inputs.items()},
        "prompt_token_ids": pair.prompt_token_ids,
        "response_token_ids": pair.response_token_ids,
    }
