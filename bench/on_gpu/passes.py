"""How fast the engine is alone: by the size of a pass, for a lone pair, and with beginnings that pairs share."""

import statistics

import numpy as np

from ceilings import copy_bytes_per_s, needed_flops
from on_gpu.sections import Told
from on_gpu.stage import Stage, new_texts, p_ms, read, text_of

_ROUNDS = 5
NOTHING_KEPT: dict[str, object] = {"prefix_cache_bytes": 0}
"""What differs for an engine that keeps nothing of beginnings."""


def peak(stage: Stage, told: Told) -> None:
    """What the device gives: its fastest matrix product, and one large copy."""
    told.figures(gemm_tflops_per_s=round(stage.peak / 1e12, 2))
    told.figures(copy_gb_per_s=round(copy_bytes_per_s(stage.device) / 1e9))
    told.say(f"GEMM peak {stage.peak / 1e12:.1f} TFLOP/s")


def engines(stage: Stage, told: Told) -> None:
    """Loads the engines that the sections behind this one share."""
    for name, changes in (("as_served", {}), ("nothing_kept", NOTHING_KEPT)):
        seconds = stage.seconds(lambda: stage.engine(**changes))  # noqa: B023
        reader = stage.engine(**changes).identity.reader
        ran = {"attention": reader.attention, "kernels": reader.kernels, "graph_tokens": reader.graph_tokens}
        told.figures(**{name: {"seconds": round(seconds, 1), "dtype": reader.dtype} | ran})
        told.say(f"{name}: {seconds:.1f} s, {ran}")


def passes(stage: Stage, told: Told) -> None:
    """Tokens per second of passes of several sizes, and their share of the peak."""
    engine, draw = stage.engine(), np.random.default_rng(1)
    for total in stage.sizes.passes:
        longest = stage.sizes.max_tokens
        # Twice before, since what is compiled is compiled once more for lengths that vary.
        first_s = sum(stage.seconds(lambda: read(engine, new_texts(total, longest, draw))) for _ in range(2))  # noqa: B023
        times, shares = [], []
        for _ in range(_ROUNDS):
            texts = new_texts(total, longest, draw)
            times.append(stage.seconds(lambda: read(engine, texts)))  # noqa: B023
            shares.append(needed_flops(stage.subject, list(map(len, texts))) / times[-1] / stage.peak)
        took_s = statistics.median(times)
        told.figures(
            **{
                f"{total} tokens": {
                    "ms": round(1000 * took_s, 3),
                    "tokens_per_s": round(total / took_s),
                    "of_peak": round(statistics.median(shares), 4),
                    "first_two_s": round(first_s, 2),
                }
            }
        )
        told.say(f"{total} tokens: {1000 * took_s:.2f} ms, {statistics.median(shares):.1%} of the peak")


def lone(stage: Stage, told: Told) -> None:
    """A lone pair through the engine."""
    engine, draw, tokens = stage.engine(), np.random.default_rng(2), stage.sizes.lone_tokens
    for _ in range(3):
        read(engine, [text_of(tokens, draw)])
    texts = [text_of(tokens, draw) for _ in range(stage.sizes.lone_pairs)]
    times = [stage.seconds(lambda text=text: read(engine, [text])) for text in texts]
    told.figures(tokens=tokens, p50_ms=p_ms(times, 50), p99_ms=p_ms(times, 99))
    told.say(f"{tokens} tokens: p50 {p_ms(times, 50)} ms, p99 {p_ms(times, 99)} ms")


def shared(stage: Stage, told: Told) -> None:
    """Eight pairs with a common beginning, beside an engine that reuses nothing: met in one batch, then known."""
    tokens, common = stage.sizes.shared
    draw, keeping, forgetful = np.random.default_rng(3), stage.engine(), stage.engine(**NOTHING_KEPT)
    # As a service does before it is ready: where reuse does not pay, it stays out.
    keeping.runner.weigh_reuse(max_tokens=keeping.max_tokens, most_tokens=keeping.max_batch_tokens)
    ratios: dict[str, list[float]] = {"in_one_batch": [], "known_before": []}
    # The first round warms up.
    for number in range(_ROUNDS + 1):
        beginning = text_of(common, draw)
        for ratio in ratios.values():
            texts = [np.concatenate([beginning, text_of(tokens - common, draw)]) for _ in range(8)]
            anew_s = stage.seconds(lambda: read(forgetful, texts))  # noqa: B023
            reused_s = stage.seconds(lambda: read(keeping, texts))  # noqa: B023
            if number:
                ratio.append(anew_s / reused_s)
    told.figures(**{name: round(statistics.median(taken), 2) for name, taken in ratios.items()})
    told.say(", ".join(f"{name} {statistics.median(taken):.2f} x as fast" for name, taken in ratios.items()))
