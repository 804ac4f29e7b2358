"""Canary files made and checked: pairs read by what runs now, with how far their scores may lie apart elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scopewatch.app.canaries.comparing import Verdict, check_covers, verdict
from scopewatch.app.canaries.hearing import Heard
from scopewatch.app.canaries.pairs import PAIRS, PASS_TOKENS
from scopewatch.app.canaries.recording import digest_of, features_of, fired_by_feature, made_with
from scopewatch.app.spine import Spine, offline
from scopewatch.config import Config
from scopewatch.errors import DataError
from scopewatch.identity import EngineIdentity
from scopewatch.pairs.data_files import Reading, read_texts
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.sources import TODAY, today
from scopewatch.types import Cleaning, Pair
from scopewatch.watch.canary_file import (
    MOST_PAIRS,
    CanaryFile,
    Dtype,
    Recorded,
    RecordedInputs,
    RecordedPair,
    RecordedReading,
    RecordedTurn,
    Tolerance,
)

LEAST: Mapping[Dtype, Tolerance] = {
    "float32": Tolerance(scores=1e-4, activations=1e-3),
    "bfloat16": Tolerance(scores=0.05, activations=0.05),
}
"""What is allowed at least, by the reader's dtype; docs/canaries.md says how these were chosen."""
_MARGIN_HERE, _MARGIN_ELSEWHERE = 10, 3
"""How many times as far as measured scores may lie apart: between ways of reading here, and in another dtype."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded, and what was measured on the way."""

    document: CanaryFile
    apart: dict[str, Verdict]
    """How far what was heard otherwise lies apart: in batches (`batches`), and in other dtypes, by their names."""

    def lines(self) -> list[str]:
        """What was recorded, for a terminal."""
        document, made = self.document, self.document.made_with
        lines = [
            (
                f"{len(document.pairs)} pairs, {len(document.indicators)} indicators of {', '.join(made.watchlists)}, "
                f"by {made.reader} in {made.dtype} on {made.device}"
            )
        ]
        for how, apart in self.apart.items():
            lines.append(f"  in {how}: scores {apart.scores:.2g} apart, activations {apart.activations:.2g}")
        for dtype, allowed in document.tolerances.items():
            lines.append(f"  allowed in {dtype}: scores {allowed.scores:.2g}, activations {allowed.activations:.2g}")
        return [*lines, "  the texts of the pairs stand in the file as they are: no caller's belong there"]


def pairs_of(files: Sequence[Path], reading: Reading) -> tuple[Pair, ...]:
    """The pairs of data files, which are to become canaries; those of the program where there are no files.

    Raises:
        DataError: A row cannot be used, or there are too many.
    """
    if not files:
        return PAIRS
    pairs = read_texts(*files, reading=reading).pairs
    if len(pairs) > MOST_PAIRS:
        raise DataError(
            f"{files[0]}: {len(pairs)} pairs; at most {MOST_PAIRS} become canaries, since each is read again and again"
        )
    return tuple(one.pair for one in pairs)


async def record(pairs: Sequence[Pair], config: Config, tolerate: Sequence[Dtype] = ()) -> Recording:
    """Reads pairs, and makes a canary file of what the watchlists of settings say of them.

    Args:
        pairs: The pairs.
        config: Settings.
        tolerate: Other dtypes that the reader may run in: it is loaded in each, to measure how far scores lie apart.

    Raises:
        SetupError: A file or a setting is wrong, or the reader's chat template does not take a pair.
        EngineError: The reader fails on a pair.
    """
    async with offline(config) as spine:
        watchlists = spine.watchlists
        if watchlists.sources[0].reader.date == TODAY:
            pairs = [replace(pair, inputs=replace(pair.inputs, date=pair.inputs.date or today())) for pair in pairs]
        document = _document(pairs, await _hear(spine, pairs, PASS_TOKENS), watchlists)
        dtype = document.made_with.dtype
        again = await spine.hearing.hear(
            document.recorded_pairs,
            list(watchlists.by_name.values()),
            spine.hearing.together,
            pass_tokens=PASS_TOKENS,
        )
        apart = {"batches": verdict(document, again, watchlists.engine)}
    tolerances = {dtype: _tolerance(LEAST[dtype], apart["batches"], _MARGIN_HERE)}
    for other in dict.fromkeys(tolerate):
        if other != dtype:
            apart[other] = await _verdict(document, config.model_copy(update={"dtype": other}))
            tolerances[other] = _tolerance(LEAST[other], apart[other], _MARGIN_ELSEWHERE)
    return Recording(document.model_copy(update={"tolerances": tolerances}), apart)


async def check(recorded: Recorded, config: Config) -> Verdict:
    """Has the watchlists of settings judge the pairs of a canary file.

    Raises:
        SetupError: A file or a setting is wrong, or the canaries are of other watchlists.
        EngineError: The reader fails on a pair.
    """
    return await _verdict(recorded.document, config, recorded)


async def _verdict(document: CanaryFile, config: Config, recorded: Recorded | None = None) -> Verdict:
    async with offline(config) as spine:
        if recorded:
            check_covers(recorded, spine.watchlists)
        heard = await _hear(spine, document.recorded_pairs, document.pass_tokens)
        return verdict(document, heard, spine.watchlists.engine)


async def _hear(spine: Spine, pairs: Sequence[Pair], pass_tokens: int) -> Heard:
    hearing, watchlists = spine.hearing, list(spine.watchlists.by_name.values())
    return await hearing.hear(pairs, watchlists, hearing.in_turns, pass_tokens=pass_tokens)


def _document(pairs: Sequence[Pair], heard: Heard, watchlists: WatchlistSet) -> CanaryFile:
    """What was heard, as a file says it; of the program's own pairs, those that the chat template takes.

    Raises:
        DataError: The chat template does not take a pair.
    """
    read = {number for one in heard.read.values() for number in one}
    refused = sorted(set(range(len(pairs))) - read)
    if refused and pairs != PAIRS:
        raise DataError(f"pair {refused[0]}: the reader's chat template does not take it; leave it out")
    engine = watchlists.engine
    made = made_with(engine, {one.name: one.digest for one in watchlists.sources})
    return CanaryFile(
        made_with=made,
        pass_tokens=PASS_TOKENS,
        tolerances={made.dtype: LEAST[made.dtype]},
        indicators={told.name: told.digest for told in heard.told},
        pairs=tuple(_recorded(pairs[number], number, heard, engine) for number in sorted(read)),
    )


def _recorded(pair: Pair, number: int, heard: Heard, engine: EngineIdentity) -> RecordedPair:
    names = features_of(engine)

    def readings(cleaning: Cleaning) -> tuple[RecordedReading, ...]:
        read = heard.read[cleaning][number]
        return tuple(
            RecordedReading(
                tokens=digest_of(reading),
                n_tokens=len(reading.ids),
                rendering=reading.rendering_digest,
                activations=fired_by_feature(covered, names),
            )
            for reading, covered in zip(read.readings, read.covered, strict=True)
        )

    return RecordedPair(
        prompt=pair.prompt,
        response=pair.response,
        history=tuple(RecordedTurn(**asdict(turn)) for turn in pair.history),
        inputs=RecordedInputs(**asdict(pair.inputs)),
        prompt_token_ids=pair.prompt_token_ids,
        response_token_ids=pair.response_token_ids,
        readings={cleaning: readings(cleaning) for cleaning in heard.read},
        scores={told.name: told.scores[number] for told in heard.told},
    )


def _tolerance(least: Tolerance, apart: Verdict, margin: float) -> Tolerance:
    return Tolerance(
        scores=_rounded(max(least.scores, margin * apart.scores)),
        activations=_rounded(max(least.activations, margin * apart.activations)),
    )


def _rounded(value: float) -> float:
    """Two significant digits, and no more than a tolerance may be."""
    return min(float(f"{value:.2g}"), 1.0)
