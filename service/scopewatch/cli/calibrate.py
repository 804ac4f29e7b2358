"""`calibrate`: an indicator, its threshold and its card, from labelled pairs or from benign traffic."""

import argparse
import asyncio
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scopewatch import logs
from scopewatch.cli.engine import absolute, add_reader_and_sae, add_work_dir, reader_of, sae_of
from scopewatch.cli.settings import AddCommand, add_settings, settings, share, text
from scopewatch.cli.written import (
    check_places,
    indicator_of,
    parts_saes,
    probe_file,
    rehearse_writing,
    valid_name,
    watchlist_name,
)
from scopewatch.config import BUNDLED_WATCHLIST, ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError, DataError

if TYPE_CHECKING:
    from scopewatch.calibration.evidence import Evidence, Wanted
    from scopewatch.calibration.outcome import Outcome
    from scopewatch.calibration.simple_detectors import Probe
    from scopewatch.pairs.labelled import LabelledPair
    from scopewatch.pairs.scored import Scored
    from scopewatch.sources import SaeSource
    from scopewatch.types import EngineIdentity, SaeIdentity
    from scopewatch.watch.cards import DataFile
    from scopewatch.watch.watchlist import Watchlist

_MOST_TERMS = 512


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command(
        "calibrate",
        _run,
        "Make an indicator from labelled pairs, or set its threshold by benign traffic; write it with its evidence.",
    )
    parser.add_argument("data", type=Path, nargs="+", help="JSONL with prompt, response, label (0 or 1) and group")
    parser.add_argument("--indicator", type=valid_name, required=True, help="name of the indicator")
    parser.add_argument("--out", type=Path, required=True, help="watchlist to write, or to write it into")
    parser.add_argument("--max-fpr", type=share, default=0.01, help="highest false-positive rate wanted")
    parser.add_argument("--confidence", type=share, default=0.95, help="of the bound on that rate")
    what = parser.add_argument_group("what it is made of")
    what.add_argument("--kind", choices=("features", "probe"), default="features", help="SAE features or a dense probe")
    what.add_argument(
        "--terms", type=_terms, default=None, metavar="auto|N", help="weighted features; auto by cross-validation"
    )
    what.add_argument("--weights", choices=("free", "nonnegative"), default="free", help="of the features")
    what.add_argument(
        "--across-sources",
        action="store_true",
        help="choose what carries over: cross-validation leaves out whole sources (the rows' `source`, or the file)",
    )
    what.add_argument(
        "--combine",
        type=_names,
        default=[],
        metavar="NAME,...",
        help="other indicators of --watchlist, mean_logprob, mean_entropy",
    )
    what.add_argument(
        "--benign",
        action="store_true",
        help="pairs are benign and not labelled: set the threshold of an indicator of --watchlist",
    )
    what.add_argument("--flip-labels", action="store_true", help="the indicator is to fire where the label is 0")
    what.add_argument("--held-out", type=share, default=0.5, help="share of the groups that measure and are not fitted")
    what.add_argument(
        "--force", action="store_true", help="write it even if a bag of words is better or the bound cannot be kept"
    )
    written = parser.add_argument_group("how it is written")
    written.add_argument(
        "--segment", choices=("response", "prompt", "history"), default="response", help="what it reads"
    )
    written.add_argument("--severity", choices=("info", "low", "medium", "high"), default="medium", help="of a flag")
    written.add_argument("--label", type=text, default="", help="what it means, for people")
    written.add_argument("--name", type=valid_name, help="of the watchlist, if it is made; default: the file's")
    written.add_argument(
        "--describe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="label features with words of the data on which they are strongest",
    )
    source = parser.add_argument_group("reader and SAE (default: those of --out if it is there, else of --watchlist)")
    source.add_argument("--watchlist", type=Path, help="whose reader, SAE and indicators to use (default: bundled)")
    add_reader_and_sae(source)
    source.add_argument("--sae-name", type=valid_name, help="name of the SAE in the watchlist that is written")
    add_work_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, help="write a report as one HTML page")
    add_settings(parser, ENGINE_SETTINGS)


def _run(args: argparse.Namespace) -> int:
    from scopewatch.watch.splice import write_indicator
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    if args.benign and args.combine:
        raise ConfigError("--benign sets the threshold of an indicator that is there; leave --combine out")
    check_places(args)
    base = load_watchlist(args.watchlist or (args.out if args.out.exists() else BUNDLED_WATCHLIST))
    work = _benign if args.benign else _combination if args.combine else _detector
    outcome = work(args, config, base)
    page = outcome.page() if args.html else ""
    written = write_indicator(args.out, outcome.indicator, outcome.reader, outcome.saes, name=watchlist_name(args))
    if args.html:
        try:
            args.html.write_text(page, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{args.html}: cannot be written: {error.strerror}") from None
    if args.json:
        print(json.dumps(outcome.document() | {"watchlist": str(args.out), "watchlist_digest": written.digest}))
    else:
        print("\n".join([*outcome.lines(), f"{args.out}: indicator {args.indicator} written"]))
    return 0


def _detector(args: argparse.Namespace, config: Config, base: "Watchlist") -> "Outcome":
    """A combination of features, or a probe, from labelled pairs."""
    from threadpoolctl import threadpool_limits

    from scopewatch.calibration.calibrate import calibrate
    from scopewatch.calibration.card_making import card_of, made_with
    from scopewatch.calibration.evidence import assert_enough
    from scopewatch.calibration.feature_words import describe
    from scopewatch.calibration.outcome import Outcome
    from scopewatch.engine.dictionary import build_dictionary
    from scopewatch.pairs.pooled import encode_pairs
    from scopewatch.sources import SaeSource
    from scopewatch.types import Segment

    wanted, reader = _wanted(args), reader_of(args, base)
    known_as, sae = sae_of(args, base)
    name = args.sae_name or known_as or "sae"
    pairs, files = _labelled(args)
    probe = f"{args.indicator}_probe", SaeSource(path=str(probe_file(args)))
    draft, source = probe if wanted.kind == "probe" else (name, sae)
    like = {"kind": wanted.kind, "features": [{"feature": f"{draft}/0", "pooling": "mean"}]}
    rehearse_writing(args, reader, {draft: source}, **like)
    assert_enough(pairs, wanted)
    dictionary = build_dictionary(reader, sae, config)
    segment = Segment[args.segment.upper()]
    pooled = encode_pairs(pairs, dictionary, segment=segment, folder=args.work_dir.expanduser())
    # On matrices so small, threads that wait for each other cost more than they do.
    with threadpool_limits(limits=1, user_api="blas"):
        found = calibrate(pairs, pooled, wanted)
    running = dictionary.identity.saes[0]
    digest, bias = running.digest, 0.0
    if found.probe:
        name, sae, digest = _write_probe(args, found.probe, running)
        features: list[dict[str, Any]] = [{"feature": f"{name}/0", "pooling": "mean"}]
    else:
        assert found.combination is not None
        bias, terms = found.combination.bias, found.combination.terms
        said: dict[int, str] = {}
        if args.describe:
            named = sorted({term.feature for term in terms})
            said = describe(pairs, pooled, found.parts.fit, named, dictionary=dictionary, segment=segment)
        features = [
            {
                "feature": f"{name}/{term.feature}",
                "weight": term.weight,
                "pooling": term.pooling,
                "label": said.get(term.feature, ""),
            }
            for term in terms
        ]
    card = card_of(found.evidence, wanted, files, made_with(dictionary.identity, {name: digest}), _today())
    made = {"kind": wanted.kind, "features": features, "bias": bias} | _measured(found.evidence)
    indicator = indicator_of(args, card=card, **made)
    return Outcome(indicator, reader, {name: sae}, found.evidence.threshold, found.evidence)


def _combination(args: argparse.Namespace, config: Config, base: "Watchlist") -> "Outcome":
    """A combination of indicators that are there and of the reader's signals."""
    from scopewatch.calibration.card_making import card_of, made_with
    from scopewatch.calibration.combination import calibrate_parts, term, with_signals
    from scopewatch.calibration.evidence import assert_enough
    from scopewatch.calibration.outcome import Outcome

    wanted = _wanted(args)
    pairs, files = _labelled(args)
    trial = with_signals(base, args.combine)
    reader, saes = absolute(base, base.reader), parts_saes(args, base, args.combine)
    rehearse_writing(args, reader, saes, kind="combination", combines=[term(name, 1.0) for name in args.combine])
    assert_enough(pairs, wanted)
    scored, running = _scores(pairs, args.combine, trial, config)
    weighed, evidence = calibrate_parts(pairs, {name: part.scores for name, part in scored.items()}, wanted)
    digests = {sae.name: sae.digest for sae in running.saes}
    card = card_of(evidence, wanted, files, made_with(running, digests), _today())
    combines = [term(name, weight) for name, weight in weighed.weights.items()]
    made = {"kind": "combination", "combines": combines, "bias": weighed.bias} | _measured(evidence)
    return Outcome(indicator_of(args, card=card, **made), reader, saes, evidence.threshold, evidence)


def _benign(args: argparse.Namespace, config: Config, base: "Watchlist") -> "Outcome":
    """The threshold of an indicator that is there, by traffic that is benign and not labelled."""
    import numpy as np

    from scopewatch.calibration.card_making import benign_card, data_files, made_with
    from scopewatch.calibration.evidence import benign_threshold
    from scopewatch.calibration.outcome import Outcome
    from scopewatch.pairs.labelled import groups_of, read_texts
    from scopewatch.watch.splice import write_indicator

    wanted = _wanted(args)
    there = next((indicator for indicator in base.indicators if indicator.name == args.indicator), None)
    if not there:
        known = ", ".join(indicator.name for indicator in base.indicators)
        raise ConfigError(
            f"--indicator: {base.file} has no {args.indicator!r}, whose threshold --benign sets ({known})"
        )
    parts = [part.indicator for part in there.combines if part.indicator]
    named = {part.key.sae for part in there.features}
    saes = parts_saes(args, base, parts) | {name: absolute(base, base.saes[name]) for name in named}
    reader = absolute(base, base.reader)
    write_indicator(args.out, there, reader, saes, watchlist_name(args), rehearse=True)
    read = [read_texts(file) for file in args.data]
    pairs, files = [pair for held in read for pair in held], data_files(args.data, read)
    fitted = (
        {file.sha256 for file in there.card.data} if there.card and there.card.beats_bag_of_words is not None else ()
    )
    for file in files:
        if file.sha256 in fitted:
            raise DataError(f"{file.name}: {there.name} was fitted on this file; its threshold needs other traffic")
    benign_threshold(np.zeros(len(pairs)), groups_of(pairs), wanted)
    scored, running = _scores(pairs, [args.indicator], base, config)
    scores = scored[args.indicator].scores
    threshold = benign_threshold(scores, groups_of(pairs), wanted)
    made = made_with(running, {sae.name: sae.digest for sae in running.saes})
    fpr = float((scores > threshold.value).mean())
    card = benign_card(threshold, wanted, files, made, fpr=fpr, date=_today())
    indicator = there.model_copy(update={"threshold": threshold.value, "card": card})
    return Outcome(indicator, reader, saes, threshold, None)


def _scores(
    pairs: "Sequence[LabelledPair]", names: Sequence[str], watchlist: "Watchlist", config: Config
) -> "tuple[dict[str, Scored], EngineIdentity]":
    """What the online scorer says of some indicators, and what ran."""
    from scopewatch.app.load import load
    from scopewatch.app.spine import offline
    from scopewatch.pairs.scored import score_pairs

    loaded = load(config, [watchlist])

    async def run() -> "dict[str, Scored]":
        async with offline(config, loaded) as monitor:
            return {name: await score_pairs(pairs, name, "", monitor.score, config.at_once) for name in names}

    return asyncio.run(run()), loaded.engine.identity


def _labelled(args: argparse.Namespace) -> "tuple[list[LabelledPair], tuple[DataFile, ...]]":
    from scopewatch.calibration.card_making import data_files
    from scopewatch.pairs.labelled import read_pairs, read_texts

    pairs = read_pairs(*args.data)
    files = data_files(args.data, [read_texts(file) for file in args.data])
    if args.flip_labels:
        pairs = [replace(pair, label=1 - (pair.label or 0)) for pair in pairs]
    return pairs, files


def _wanted(args: argparse.Namespace) -> "Wanted":
    from scopewatch.calibration.evidence import Wanted

    return Wanted(
        kind="combination" if args.combine else args.kind,
        max_fpr=args.max_fpr,
        confidence=args.confidence,
        held_out=args.held_out,
        terms=args.terms,
        weights=args.weights,
        across_sources=args.across_sources,
        force=args.force,
    )


def _write_probe(args: argparse.Namespace, probe: "Probe", running: "SaeIdentity") -> "tuple[str, SaeSource, str]":
    """The name, place and digest of a probe, which lies beside the watchlist."""
    import numpy as np

    from scopewatch.sae.pack import load_pack, write_probe
    from scopewatch.sources import SaeSource

    file = probe_file(args)
    origin = {"made_of": running.digest}
    direction, bias = probe.direction.astype(np.float32), np.array([probe.bias], np.float32)
    write_probe(file, direction, bias, hookpoint=running.hookpoint, origin=origin)
    return f"{args.indicator}_probe", SaeSource(path=str(file)), load_pack(file).digest


def _measured(evidence: "Evidence") -> dict[str, object]:
    return {"threshold": evidence.threshold.value, "probability": evidence.probability}


def _today() -> str:
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def _terms(argument: str) -> int | None:
    """Argument type: `auto`, or a number of terms."""
    if argument == "auto":
        return None
    if not argument.isdecimal() or not 1 <= int(argument) <= _MOST_TERMS:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected auto or a number from 1 to {_MOST_TERMS}")
    return int(argument)


def _names(argument: str) -> list[str]:
    """Argument type: names split by commas."""
    names = dict.fromkeys(name.strip() for name in text(argument).split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("expected names split by commas")
    return list(names)
