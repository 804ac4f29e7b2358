"""What odd characters do to flags, and what the cleaned reading makes of them.

    python bench/evasion.py DATA.jsonl... [--flagged 200] [--benign DATA.jsonl] [--out FILE]

Of the responses that the bundled watchlist flags, the first `--flagged` are written in each of the ways below, and read
as they are and cleaned beside it. What the cleaned reading costs is measured on ordinary pairs, which nobody tampered
with: how many are read twice, the time of both ways side by side, and the flags of either.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from scopewatch.app.spine import Spine, offline
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.pairs.data_files import read_texts
from scopewatch.types import Pair, ScoreJob
from scopewatch.verdicts import ScoredPair, Verdict

WAYS = ("none", "beside", "instead")
_CYRILLIC = [
    chr(code)
    for code in (
        0x0430,
        0x0441,
        0x0435,
        0x0456,
        0x043E,
        0x0440,
        0x0445,
        0x0443,
        0x0410,
        0x0412,
        0x0421,
        0x0415,
        0x041D,
        0x041A,
        0x041C,
        0x041E,
        0x0420,
        0x0422,
        0x0425,
        0x0458,
    )
]
_HOMOGLYPHS = dict(zip(map(ord, "aceiopxyABCEHKMOPTXj"), _CYRILLIC, strict=True))
_SMALL_CAPITALS = str.maketrans("abcdefghijklmnoprtuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀᴛᴜᴠᴡʏᴢ")


def between_letters(mark: str) -> Callable[[str], str]:
    def written(text: str) -> str:
        pairs = itertools.pairwise([*text, " "])
        return "".join(a + mark if a.isalpha() and b.isalpha() else a for a, b in pairs)

    return written


def letters_from(capital: int, small: int) -> Callable[[str], str]:
    def letter(char: str) -> str:
        if not char.isascii() or not char.isalpha():
            return char
        return chr(capital + ord(char) - 65) if char.isupper() else chr(small + ord(char) - 97)

    return lambda text: "".join(map(letter, text))


def alternating(text: str) -> str:
    return "".join(char.upper() if place % 2 else char.lower() for place, char in enumerate(text))


EVASIONS: dict[str, Callable[[str], str]] = {
    "zero-width joiner": between_letters("\u200d"),
    "zero-width space": between_letters("\u200b"),
    "soft hyphen": between_letters("\u00ad"),
    "word joiner": between_letters("\u2060"),
    "byte order mark": between_letters("\ufeff"),
    "variation selector": between_letters("\ufe0e"),
    "tag character": between_letters("\U000e0061"),
    "Hangul filler": between_letters("\u3164"),
    "direction mark": between_letters("\u200e"),
    "strike-through": between_letters("\u0336"),
    "full-width letters": letters_from(0xFF21, 0xFF41),
    "mathematical bold": letters_from(0x1D400, 0x1D41A),
    "circled letters": letters_from(0x24B6, 0x24D0),
    "small capitals": lambda text: text.lower().translate(_SMALL_CAPITALS),
    "Cyrillic look-alikes": lambda text: text.translate(_HOMOGLYPHS),
    "upper case": str.upper,
    "alternating case": alternating,
    "decomposed, joined and upper": lambda text: between_letters("\u200d")(unicodedata.normalize("NFD", text.upper())),
}


async def scored(spine: Spine, pairs: Sequence[Pair], watchlist: str) -> list[ScoredPair]:
    found: list[ScoredPair] = []
    for start in range(0, len(pairs), 32):
        jobs = [ScoreJob(pair, watchlist, "bench") for pair in pairs[start : start + 32]]
        outcomes = await spine.score(jobs)
        found += [outcome for outcome in outcomes if isinstance(outcome, ScoredPair)]
        if len(found) != start + len(jobs):
            raise SystemExit(f"a pair cannot be scored: {next(o for o in outcomes if not isinstance(o, ScoredPair))}")
    return found


def flags(pairs: Sequence[ScoredPair]) -> int:
    return sum(pair.verdict is Verdict.FLAG for pair in pairs)


async def lost_flags(spine: Spine, responses: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """The share of flags that each evasion takes, by the way of reading."""
    lost: dict[str, dict[str, float]] = {}
    for name, written in EVASIONS.items():
        evading = [replace(pair, response=written(pair.response)) for pair in responses]
        kept = {way: flags(await scored(spine, evading, way)) for way in WAYS}
        lost[name] = {way: 1 - kept[way] / len(responses) for way in WAYS}
        print(f"{name:30}" + "".join(f"{lost[name][way]:10.1%}" for way in WAYS), flush=True)
    return lost


async def ordinary(spine: Spine, pairs: Sequence[Pair], rounds: int) -> dict[str, Any]:
    """What the cleaned reading costs where nobody tampered with the texts."""
    seconds = {way: float("inf") for way in WAYS}
    share = {}
    for _ in range(rounds):
        for way in WAYS:
            started = time.perf_counter()
            found = await scored(spine, pairs, way)
            seconds[way] = min(seconds[way], time.perf_counter() - started)
            share[way] = flags(found) / len(pairs)
    return {
        "pairs": len(pairs),
        "time_ratio": {way: seconds[way] / seconds["none"] for way in WAYS},
        "flag_rate": share,
    }


def watchlists(folder: Path) -> list[Path]:
    """The bundled watchlist once for each way of reading."""
    made = []
    for way in WAYS:
        document = yaml.safe_load(BUNDLED_WATCHLIST.read_text(encoding="utf-8"))
        document |= {"name": way, "cleaned": way}
        for source in (document["reader"], *document["saes"].values()):
            source["path"] = str(BUNDLED_WATCHLIST.parent / source["path"])
        made.append(folder / f"{way}.yaml")
        made[-1].write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return made


async def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            watchlist=tuple(watchlists(Path(folder))), cache_bytes=0, prefix_cache_bytes=0, max_queue_tokens=1 << 20
        )
        async with offline(config) as spine:
            pairs = [item.pair for file in args.data for item in read_texts(file).pairs]
            found = await scored(spine, pairs, "none")
            flagged = [pair for pair, one in zip(pairs, found, strict=True) if one.verdict is Verdict.FLAG]
            flagged = flagged[: args.flagged]
            print(f"{len(flagged)} flagged responses; share of flags lost" + "".join(f"{way:>10}" for way in WAYS))
            lost = await lost_flags(spine, flagged)
            benign = [item.pair for item in read_texts(args.benign).pairs][: args.pairs]
            cost = await ordinary(spine, benign, args.rounds)
    print(json.dumps(cost, indent=2))
    return {"flagged": len(flagged), "flags_lost": lost, "ordinary": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="JSONL with responses of which some are flagged")
    parser.add_argument("--benign", type=Path, required=True, help="JSONL with ordinary pairs")
    parser.add_argument("--flagged", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=1000, help="the most ordinary pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evasion.json")
    args = parser.parse_args()
    result = asyncio.run(run(args))
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
