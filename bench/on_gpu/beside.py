"""The engine beside what a user would do without it, over the same pairs in turn; and whether all find the same."""

import statistics
from collections.abc import Callable

import contenders
from contenders import Contender, watched_thresholds
from equality import RULES, Difference, compare
from on_gpu.sections import Told
from on_gpu.stage import Stage
from scopewatch.engine.budget import MOST_TOKENS
from scopewatch.types import TokenisedPair
from subjects import lengths, pairs

_ROUNDS = 3
_REFERENCE = "transformers"


def beside(stage: Stage, told: Told) -> None:
    """Contenders in turn over new pairs, round by round."""
    engine = stage.engine()
    dtype = str(contenders.dtype_on(stage.device)).removeprefix("torch.")
    running = _contenders(stage, told)
    times: dict[str, list[float]] = {name: [] for name in running}
    differences = {name: Difference() for name in running}
    thresholds = watched_thresholds(stage.subject)
    sizes = lengths(stage.sizes.pairs, stage.sizes.max_tokens)
    # The first round warms up, with a part of the pairs.
    for number in range(_ROUNDS + 1):
        made = engine.tokeniser.tokenise(pairs(sizes if number else sizes[:32], salt=100 + number))
        ids = [pair.ids for pair in made if isinstance(pair, TokenisedPair)]
        found = {}
        for name, run in running.items():
            seconds = stage.seconds(lambda: found.update({name: run(ids)}))  # noqa: B023
            if number:
                times[name].append(seconds)
        for name, difference in differences.items():
            compare(difference, found[_REFERENCE], found[name], thresholds)
        told.say(f"round {number}: " + ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in times.items() if taken))
        if number:
            told.figures(**_figures(times, sum(map(len, ids)), differences))
    for name, difference in differences.items():
        told.broken([f"{name}: {rule}" for rule in difference.broken(RULES[dtype])])


def _contenders(stage: Stage, told: Told) -> dict[str, Contender]:
    """Those whose libraries are there."""
    subject, device, engine = stage.subject, stage.device, stage.engine()
    # The batches that a service makes.
    budget = min(engine.max_batch_tokens, MOST_TOKENS[device.type])
    makers: dict[str, Callable[[], Contender]] = {
        _REFERENCE: lambda: contenders.transformers(subject, device),
        "engine": lambda: contenders.scopewatch(subject, engine, budget),
        "expert": lambda: contenders.expert(subject, device),
        "expert_sorted": lambda: contenders.expert(subject, device, by_length=True),
        "saelens": lambda: contenders.saelens(subject, device),
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ImportError as error:
            told.say(f"{name} left out: {error}")
    return made


def _figures(times: dict[str, list[float]], tokens: int, differences: dict[str, Difference]) -> dict[str, object]:
    """Rates, and ratios within a round, as medians over the rounds so far."""
    return {
        name: {
            "tokens_per_s": round(tokens / statistics.median(taken)),
            "engine_is_faster": round(
                statistics.median(theirs / ours for theirs, ours in zip(taken, times["engine"], strict=True)), 2
            ),
            "difference": differences[name].figures(),
        }
        for name, taken in times.items()
    }
