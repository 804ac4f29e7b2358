"""What GetInfo and ReloadWatchlists say."""

from itertools import accumulate

from scopewatch.doors.grpc.mirrored import CALIBRATIONS, SEGMENTS, SEVERITIES, mirror
from scopewatch.doors.limits import Limits
from scopewatch.errors import SetupError
from scopewatch.identity import EngineIdentity, SaeIdentity
from scopewatch.pipeline.watchlist_set import Reloaded, WatchlistSet
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.watch.cards import Card
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist

_KINDS = {
    "features": pb.INDICATOR_KIND_FEATURES,
    "probe": pb.INDICATOR_KIND_PROBE,
    "combination": pb.INDICATOR_KIND_COMBINATION,
    "obfuscation": pb.INDICATOR_KIND_OBFUSCATION,
    "words": pb.INDICATOR_KIND_WORDS,
}

_REFUSAL_BYTES = 1500


def info_response(watchlists: WatchlistSet, limits: Limits, version: str) -> pb.GetInfoResponse:
    """What this process reads with, watches and accepts.

    Args:
        watchlists: The watchlists, and the reader and SAEs that they run on.
        limits: What a request may hold.
        version: The version of scopewatch.
    """
    engine = watchlists.engine
    return pb.GetInfoResponse(
        version=version,
        reader=mirror(pb.ReaderInfo, engine.reader),
        saes=[_sae_info(sae) for sae in engine.saes],
        watchlists=[
            pb.WatchlistInfo(
                name=watchlist.name,
                digest=watchlist.digest,
                indicators=_indicator_infos(watchlist, engine),
                cleaned=watchlist.cleaned,
            )
            for watchlist in watchlists.sources
        ],
        limits=mirror(pb.Limits, limits),
        watchlists_version=watchlists.version,
    )


def reload_response(reloaded: Reloaded) -> pb.ReloadWatchlistsResponse:
    """What runs after the watchlist files were read again."""
    watchlists = reloaded.watchlists
    return pb.ReloadWatchlistsResponse(
        version=watchlists.version,
        watchlists=[pb.LoadedWatchlist(name=one.name, digest=one.digest) for one in watchlists.sources],
        changed=reloaded.changed,
    )


def reload_refusal(error: SetupError) -> SetupError:
    """What is wrong with watchlist files, cut to what clients take of trailing metadata, 8 KiB.

    A message goes there twice, and up to three times as long where it is not ASCII.
    """
    lines = str(error).splitlines()
    sizes = accumulate(len(line.encode()) + 1 for line in lines)
    fitting = sum(size <= _REFUSAL_BYTES for size in sizes)
    told, more = lines[:fitting], len(lines) - fitting
    return SetupError("\n".join([*told, f"{more} more mistakes are only in the server's log"] if more else told))


def _sae_info(sae: SaeIdentity) -> pb.SaeInfo:
    named = (
        "name",
        "format",
        "architecture",
        "hookpoint",
        "d_in",
        "d_sae",
        "digest",
        "neuronpedia",
        "repo",
        "revision",
    )
    return pb.SaeInfo(watched_features=len(sae.watched), **{name: getattr(sae, name) for name in named})


def _indicator_infos(watchlist: Watchlist, identity: EngineIdentity) -> list[pb.IndicatorInfo]:
    warnings = watchlist.card_problems(identity)
    return [_indicator_info(indicator, warnings.get(indicator.name, "")) for indicator in watchlist.indicators]


def _indicator_info(indicator: Indicator, card_warning: str) -> pb.IndicatorInfo:
    slope = indicator.threshold_by_length
    return pb.IndicatorInfo(
        name=indicator.name,
        label=indicator.label,
        severity=SEVERITIES[indicator.severity],
        segment=SEGMENTS[indicator.read_segment],
        threshold=indicator.threshold,
        calibration=CALIBRATIONS[indicator.calibrated and not card_warning],
        card=_card(indicator.card) if indicator.card else None,
        features=len(indicator.features),
        kind=_KINDS[indicator.kind],
        combines=[term.name for term in indicator.combines],
        card_warning=card_warning,
        threshold_by_length=mirror(pb.ThresholdByLength, slope) if slope else None,
    )


def _card(card: Card) -> pb.Card:
    return pb.Card(
        date=card.date,
        calibrated_on=card.calibrated_on,
        n=card.n,
        measurements=[mirror(pb.Measurement, measurement) for measurement in card.measurements],
        note=card.note,
        data=[mirror(pb.DataFile, file) for file in card.data],
        traffic=[mirror(pb.DataFile, file) for file in card.traffic],
        max_fpr=card.max_fpr,
        confidence=card.confidence,
        beats_bag_of_words=card.beats_bag_of_words,
        beside_bag_of_words=card.beside_bag_of_words,
        leaks=card.leaks,
        fragility=[mirror(pb.Fragility, row) for row in card.fragility],
        stands_on=card.stands_on,
        made_with=mirror(pb.MadeWith, card.made_with) if card.made_with else None,
        beyond_words=mirror(pb.BeyondWords, card.beyond_words) if card.beyond_words else None,
        measured_in=mirror(pb.MeasuredIn, card.measured_in) if card.measured_in else None,
    )
