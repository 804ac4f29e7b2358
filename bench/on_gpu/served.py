"""A real server over the reader, called through gRPC from this process."""

import statistics
from collections.abc import Sequence

from ceilings import needed_flops
from on_gpu.sections import Told
from on_gpu.stage import Stage, p_ms
from scopewatch.client import pb
from scopewatch.types import Pair
from subjects import lengths, pairs
from timed_calls import CALLERS, Calls, batches, server, unary


def served(stage: Stage, told: Told) -> None:
    """Starts the server, by laps; then lone pairs, a stream of batches, many callers, and the cache."""
    sizes = stage.sizes
    with server(stage.config(max_batch_tokens=0)) as running:
        told.figures(start_s=running.ready["start_s"], start_parts_s=dict(running.ready["start_parts_s"]))
        told.say(f"ready after {running.ready['start_s']} s: {running.ready['start_parts_s']}")
        told.figures(max_batch_tokens=running.ready["max_batch_tokens"])

        lone = pairs([sizes.lone_tokens] * (sizes.lone_pairs + 2), salt=1)
        # The first calls connect.
        unary(running, lone[:2], Calls(), cached=False, callers=1)
        calls = Calls()
        unary(running, lone[2:], calls, cached=False, callers=1)
        told.figures(lone={"p50_ms": p_ms(calls.latencies_s, 50), "p99_ms": p_ms(calls.latencies_s, 99)})
        told.say(f"lone pair of {sizes.lone_tokens} tokens: p50 {p_ms(calls.latencies_s, 50)} ms")

        # What a first burst gives says how many pairs take as long as they shall.
        burst = Calls()
        batches(running, _usual(stage, sizes.calls, salt=2), burst, cached=False)
        count = max(sizes.calls, int(burst.pairs_per_s[0] * sizes.stream_s))
        stream, calls = _usual(stage, count, salt=3), Calls()
        found = _stream_figures(stage, batches(running, stream, calls, cached=False), calls)
        told.figures(stream=found)
        told.say(f"stream of {count} pairs: {found['pairs_per_s']} pairs/s, {found['of_peak']:.1%} of the peak")

        for name, callers, cached, made in (
            ("unary_computed", CALLERS, False, _usual(stage, sizes.calls, salt=4)),
            ("unary_cached", CALLERS, True, stream[: sizes.calls] * 4),
            ("one_caller_cached", 1, True, stream[: sizes.calls]),
        ):
            calls = Calls()
            unary(running, made, calls, cached=cached, callers=callers)
            told.figures(
                **{
                    name: {
                        "callers": callers,
                        "pairs_per_s": round(calls.pairs_per_s[0], 1),
                        "p50_ms": p_ms(calls.latencies_s, 50),
                        "p99_ms": p_ms(calls.latencies_s, 99),
                    }
                }
            )
            told.say(f"{name}: {calls.pairs_per_s[0]:.0f} pairs/s, p50 {p_ms(calls.latencies_s, 50)} ms")
        calls = Calls()
        batches(running, stream[: sizes.calls] * 8, calls, cached=True)
        told.figures(batch_cached={"pairs_per_s": round(calls.pairs_per_s[0], 1)})
        told.say(f"batch_cached: {calls.pairs_per_s[0]:.0f} pairs/s")
        told.figures(resident_mib=running.peak_resident_mib)


def _usual(stage: Stage, count: int, *, salt: int) -> list[Pair]:
    """Pairs as long as pairs are, median 120 tokens; a salt renews them."""
    return pairs(lengths(count, stage.sizes.max_tokens), salt=salt)


def _stream_figures(stage: Stage, replies: Sequence[pb.ScoreResponse], calls: Calls) -> dict[str, float]:
    tokens = [reply.coverage.tokens for reply in replies]
    seconds = len(replies) / calls.pairs_per_s[0]
    return {
        "pairs": len(replies),
        "median_tokens": statistics.median(tokens),
        "pairs_per_s": round(calls.pairs_per_s[0], 1),
        "tokens_per_s": round(sum(tokens) / seconds),
        "of_peak": round(needed_flops(stage.subject, tokens) / seconds / stage.peak, 4),
    }
