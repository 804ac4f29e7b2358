"""What bfloat16 changes in verdicts: the same pairs by the bundled reader in both precisions."""

import asyncio
from dataclasses import replace

import precision
from on_gpu.sections import Told
from on_gpu.stage import Stage
from scopewatch.config import Config
from scopewatch.pairs.data_files import read_pairs
from scopewatch.reader.linear import multiplies_bfloat16
from scopewatch.types import Pair
from subjects import lengths, pairs

_MOST_CHANGED = 0.02
"""The share of the verdicts that may change."""


def flips(stage: Stage, told: Told) -> None:
    """Every file of labelled pairs; without one, made pairs, of which few are flagged."""
    if stage.device.type == "cpu" and not multiplies_bfloat16():
        told.say("left out: this CPU has no arithmetic for bfloat16")
        return
    sets: dict[str, list[Pair]] = {
        file.stem: [labelled.pair for labelled in read_pairs(file).pairs] for file in stage.labelled
    } or {"made of random words": pairs(lengths(stage.sizes.calls, 500), salt=5)}
    every = [pair for chosen in sets.values() for pair in chosen]
    exact, rounded = (
        # Graphs change no number, and would be recorded for each.
        asyncio.run(precision.read(every, Config(device=stage.device.type, dtype=dtype, graph_tokens=0)))
        for dtype in ("float32", "bfloat16")
    )
    start = 0
    for name, chosen in sets.items():
        here = slice(start, start := start + len(chosen))
        found = precision.compare(
            replace(exact, scored=exact.scored[here]), replace(rounded, scored=rounded.scored[here])
        )
        # How long it takes is not the question here, and other things run beside it.
        del found["speed"]
        told.figures(**{name: found})
        told.say(f"{name}: {found['changed_verdicts']:.2%} of {found['pairs']} verdicts change")
        if (changed := float(str(found["changed_verdicts"]))) > _MOST_CHANGED:
            told.broken([f"{name}: {changed:.2%} of the verdicts change, at most {_MOST_CHANGED:.0%}"])
