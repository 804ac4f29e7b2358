"""Holds what is heard of canary pairs against what other watchlists say, and against what was recorded."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isclose
from typing import Any

from scopewatch.app.canaries.definitions import definition_digests
from scopewatch.app.canaries.hearing import Heard, Read, Told
from scopewatch.app.canaries.recording import digest_of, features_of, fired_by_feature, made_with
from scopewatch.errors import DataError
from scopewatch.identity import EngineIdentity, FeatureId, ReaderIdentity
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.watch.canary_file import CanaryFile, Fired, MadeWith, Recorded, RecordedReading, Tolerance

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
"""How far scores of one definition may lie apart on one engine. The same columns are multiplied; beside others, a
product may be rounded otherwise."""


def contradictions(before: Heard, after: Heard) -> list[str]:
    """Where watchlists that are to run say something else than those that run of what both define alike."""
    known: Mapping[Hashable, Told] = {told.definition: told for told in before.told}
    return [
        f"{told.where}: {told.name} scores {score} on canary pair {number}, and {same.name}, which is defined "
        f"alike, scores {same.scores[number]}; a file was not loaded as it is: try again, or restart the service"
        for told in after.told
        if (same := known.get(told.definition))
        for number, score in told.scores.items()
        if not _alike(same.scores[number], score)
    ]


def _alike(expected: float | None, score: float | None) -> bool:
    if expected is None or score is None:
        return expected is score
    return isclose(expected, score, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether canary pairs are as they were recorded."""

    problems: tuple[str, ...]
    """What is not as recorded; empty where all is."""
    differs: tuple[str, ...]
    """What of the reader, the SAEs and the settings is another than what the pairs were recorded with."""
    not_covered: tuple[str, ...]
    """The indicators of which nothing was recorded, as `watchlist/indicator`."""
    deviations: Mapping[tuple[str, str], float]
    """The largest deviation of each other indicator's score, by watchlist and name."""
    activations: float
    """The largest deviation of a reading's activations."""

    @property
    def ok(self) -> bool:
        """Whether all is as recorded."""
        return not self.problems

    @property
    def scores(self) -> float:
        """The largest deviation of a score."""
        return max(self.deviations.values(), default=0.0)

    def document(self) -> dict[str, Any]:
        """What was found, as JSON can hold it."""
        deviations = {"/".join(names): None if ratio == inf else ratio for names, ratio in self.deviations.items()}
        return asdict(self) | {"ok": self.ok, "deviations": deviations}

    def lines(self) -> list[str]:
        """What was found, in lines for a terminal."""
        return [
            *(f"  {problem}" for problem in self.problems),
            *(f"  differs from what recorded it: {what}" for what in self.differs),
            *(f"  not covered: {name}" for name in self.not_covered),
            *(f"  {'/'.join(names)}: off by {ratio:.2g}" for names, ratio in self.deviations.items()),
            f"  activations: off by {self.activations:.2g}",
        ]


def check_covers(recorded: Recorded, watchlists: WatchlistSet) -> None:
    """Refuses canaries of other watchlists.

    Raises:
        DataError: Nothing was recorded of any indicator.
    """
    known = set(recorded.document.indicators.values())
    if known.isdisjoint(
        digest for watchlist in watchlists.by_name.values() for digest in definition_digests(watchlist)
    ):
        names = ", ".join(watchlists.by_name)
        raise DataError(
            f"{recorded.file}: indicators: holds none of those of the watchlists that run ({names}) as they are "
            "defined; make another with `scopewatch canary record`"
        )


def verdict(recorded: CanaryFile, heard: Heard, running: EngineIdentity) -> Verdict:
    """Compares what is heard of the pairs of a file with what the file says.

    Args:
        recorded: The file.
        heard: What watchlists say of its pairs.
        running: What they run on.
    """
    dtype = running.reader.dtype
    allowed = dict(recorded.tolerances).get(dtype)  # type: ignore[call-overload]
    problems = []
    if allowed is None:
        problems.append(
            f"the reader runs in {dtype}, and the canaries are for {' and '.join(recorded.tolerances)} alone: "
            "set dtype, or record them again"
        )
        # What lies further apart still is told of, too.
        allowed = max(recorded.tolerances.values(), key=lambda one: one.scores)
    read = {number for pairs in heard.read.values() for number in pairs}
    unread = sorted(set(range(len(recorded.pairs))) - read)
    problems += [f"pair {number}: cannot be read any more" for number in unread]
    activations, apart = _activations(recorded, heard, features_of(running), allowed)
    deviations, off = _scores(recorded, heard, allowed)
    covered = set(recorded.indicators.values())
    return Verdict(
        problems=(*problems, *off, *apart),
        differs=_differences(recorded.made_with, made_with(running, {}), running.reader),
        not_covered=tuple(told.name for told in heard.told if told.digest not in covered),
        deviations=deviations,
        activations=activations,
    )


def _scores(recorded: CanaryFile, heard: Heard, allowed: Tolerance) -> tuple[dict[tuple[str, str], float], list[str]]:
    """The largest deviation of each indicator that was recorded, and what is said of those that are too large."""
    names = {digest: name for name, digest in recorded.indicators.items()}
    deviations: dict[tuple[str, str], float] = {}
    problems = []
    for told in heard.told:
        if not (name := names.get(told.digest)):
            continue
        deviations[told.watchlist, told.indicator] = 0.0
        for number, score in told.scores.items():
            expected = recorded.pairs[number].scores[name]
            ratio = _ratio(expected, score)
            deviations[told.watchlist, told.indicator] = max(ratio, deviations[told.watchlist, told.indicator])
            if ratio > allowed.scores:
                problems.append(
                    f"{told.name} on pair {number}: expected {_shown(expected)}, got {_shown(score)}, "
                    f"off by {ratio:.2g} where {allowed.scores:.2g} is allowed"
                )
    return deviations, problems


def _ratio(expected: float | None, score: float | None) -> float:
    if expected is None or score is None:
        return 0.0 if expected is score else inf
    return abs(score - expected) / max(1.0, abs(expected))


def _shown(score: float | None) -> str:
    return "nothing (skipped)" if score is None else f"{score:.7g}"


def _activations(
    recorded: CanaryFile, heard: Heard, names: Mapping[FeatureId, str], allowed: Tolerance
) -> tuple[float, list[str]]:
    """The largest deviation of a reading's activations, and what is said of those that are too large."""
    largest, problems = 0.0, []
    for cleaning, pairs in heard.read.items():
        for number, read in pairs.items():
            if not (before := recorded.pairs[number].readings.get(cleaning)):
                continue
            if [one.tokens for one in before] != list(map(digest_of, read.readings)):
                problems.append(f"pair {number}: other tokens are read than were recorded")
                continue
            if [one.rendering for one in before] != [one.rendering_digest for one in read.readings]:
                problems.append(f"pair {number}: is rendered otherwise, if to the same tokens; other pairs may show it")
            share, feature = _apart(before, read, names)
            largest = max(largest, share)
            if share > allowed.activations:
                problems.append(
                    f"pair {number}: activations are off by {share:.2g} of their sum where {allowed.activations:.2g} "
                    f"is allowed, most of all those of {feature}"
                )
    return largest, problems


def _apart(before: Sequence[RecordedReading], read: Read, names: Mapping[FeatureId, str]) -> tuple[float, str]:
    """How far activations of a pair lie apart, as a share of their sum, and the feature that has most of it."""
    apart: dict[str, float] = {}
    whole = 0.0
    for reading, covered in zip(before, read.covered, strict=True):
        fired = fired_by_feature(covered, names)
        for feature in reading.activations.keys() & fired.keys():
            expected, now = _by_token(reading.activations[feature]), _by_token(fired[feature])
            whole += sum(map(abs, expected.values()))
            off = sum(abs(now.get(token, 0.0) - expected.get(token, 0.0)) for token in expected.keys() | now.keys())
            apart[feature] = apart.get(feature, 0.0) + off
    # Where hardly anything fires, the little that does is no share of anything.
    return sum(apart.values()) / max(whole, 1.0), max(apart, key=lambda feature: apart[feature], default="")


def _by_token(fired: Fired) -> dict[int, float]:
    return dict(zip(fired.tokens, fired.values, strict=True))


def _differences(before: MadeWith, now: MadeWith, reader: ReaderIdentity) -> tuple[str, ...]:
    """What was another when the pairs were recorded."""
    old, new = before.model_dump(), now.model_dump()
    found = [
        f"{part} {old[part]} (now {new[part]})"
        for part in ("reader", "revision", "dtype", "device", "attention", "scopewatch")
        if old[part] != new[part]
    ]
    if before.reader_digest not in {reader.digest, *reader.layer_digests}:
        found.append("the reader's weights")
    if before.template_digest != now.template_digest:
        found.append("the chat template")
    elif before.rendering_digest != now.rendering_digest:
        found.append("the rendering of texts (tokenizer, date, tools or other settings of the reader)")
    shared = sorted(before.saes.keys() & now.saes.keys())
    return (*found, *(f"SAE {name}" for name in shared if before.saes[name] != now.saes[name]))
