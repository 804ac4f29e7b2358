"""Texts that the demonstration of monitoring sends: some like those that `speculation` was measured on, and some unlike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

_TOOLS = Path(__file__).parents[1]
_HEDGED_SHARE = 0.05


def usual(seed: int) -> Iterator[str]:
    """Plain sentences of sixteen kinds, and one hedged sentence in twenty, without end."""
    files = sorted((_TOOLS / "hedging").glob("*.txt"))
    lines = [line.rstrip("\n") for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    plain, hedged = ([line[2:] for line in lines if line.startswith(mark)] for mark in ("- ", "+ "))
    choose = random.Random(seed)
    while True:
        yield choose.choice(hedged if choose.random() < _HEDGED_SHARE else plain)


def others(seed: int) -> Iterator[str]:
    """Another domain: medical answers, and pieces of programs, without end."""
    text = (_TOOLS / "checks" / "medical_answers.txt").read_text(encoding="utf-8")
    answers = [line[2:] for line in text.splitlines() if line.startswith("+ ")]
    choose = random.Random(seed)
    while True:
        yield choose.choice(answers) if choose.random() < 0.5 else _program(choose)


def _program(choose: random.Random) -> str:
    one, two, three = choose.sample(["total", "row", "index", "price", "user", "cache", "path", "node"], 3)
    return (
        f"def {one}_{two}({three}):\n    for {one} in range({choose.randint(2, 99)}):\n"
        f"        {two} = {three}[{one}] * {choose.randint(2, 9)}\n    return {two}"
    )
