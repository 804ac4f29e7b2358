"""Builds an engine: which reader, which SAEs, which features."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from scopewatch.config import Config
from scopewatch.engine.budget import batch_tokens
from scopewatch.engine.runner import ROW_TOKENS, PlacedEncoder, Runner
from scopewatch.errors import HubError, NoSuchFeature, ReaderError, SaeError, WatchlistError
from scopewatch.logs import Laps
from scopewatch.reader.hookpoints import EMBEDDING, Hookpoint, parse_hookpoint, width
from scopewatch.reader.loading import Reader, find_reader, load_reader
from scopewatch.reader.text import Tokeniser
from scopewatch.releases.find import find_sae
from scopewatch.sae.encoder import WatchedSae
from scopewatch.sae.watched import PackFolder, load_watched
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import EngineIdentity, ReaderIdentity, SaeIdentity
from scopewatch.watch.watchlist import Watchlist


@dataclass(slots=True)
class SaeChoice:
    """An SAE and the features wanted of it."""

    name: str
    source: SaeSource
    """Its path, if it has one, counts from the working directory."""
    wanted: dict[int, str] = field(default_factory=dict)
    """Feature index to the place in a watchlist that asks for it."""
    asked_by: str = ""
    """Place in a watchlist, for messages."""


@dataclass(frozen=True, slots=True)
class _LoadedSae:
    choice: SaeChoice
    watched: WatchedSae
    hookpoint: Hookpoint
    neuronpedia: str


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that reads text: callables for the pipeline and what they are."""

    tokeniser: Tokeniser
    runner: Runner
    identity: EngineIdentity
    max_tokens: int
    """Most tokens read of one pair: the setting, or the reader's context if that is shorter."""
    max_batch_tokens: int
    """Tokens to compute at once: the setting, or what the device's memory holds."""


def choices(watchlists: Sequence[Watchlist]) -> tuple[ReaderSource, list[SaeChoice]]:
    """What the watchlists ask for together.

    Raises:
        WatchlistError: They ask for different readers, or call different SAEs by one name.
    """
    readers = [_absolute_reader(watchlist) for watchlist in watchlists]
    saes: dict[str, SaeChoice] = {}
    names: set[str] = set()
    for watchlist, reader in zip(watchlists, readers, strict=True):
        if watchlist.name in names:
            raise WatchlistError(f"{watchlist.where('name')}: another watchlist is already named {watchlist.name!r}")
        names.add(watchlist.name)
        if reader != readers[0]:
            raise WatchlistError(
                f"{watchlist.where('reader')}: one process has one reader, and {watchlists[0].file} asks for another"
            )
        for name, source in watchlist.saes.items():
            place = watchlist.where("saes", name)
            here = str(watchlist.resolve(source.path).absolute()) if source.path else ""
            choice = SaeChoice(name, source.model_copy(update={"path": here}), asked_by=place)
            known = saes.setdefault(name, choice)
            if known.source != choice.source:
                raise WatchlistError(f"{place}: another watchlist calls a different SAE {name!r}; rename one")
        for feature, location in watchlist.features.items():
            saes[feature.sae].wanted.setdefault(feature.index, watchlist.where(*location))
    return readers[0], [saes[name] for name in sorted(saes) if saes[name].wanted]


def set_threads(config: Config) -> None:
    """Leaves one core to the event loop and the tokenizer: where threads outnumber cores, each layer waits for the
    scheduler, and a pass takes many times as long.
    """
    torch.set_num_threads(config.torch_threads or max(1, torch.get_num_threads() - 1))


def build_engine(
    source: ReaderSource,
    sae_choices: Sequence[SaeChoice],
    config: Config,
    laps: Laps | None = None,
    *,
    head: bool = False,
) -> Engine:
    """Loads a reader down to the deepest watched layer, its tokenizer and the watched columns of its SAEs.

    Args:
        source: Where the reader is; a path counts from the working directory.
        sae_choices: At least one, unless the head runs.
        config: Settings.
        laps: Is told what took how long: `saes`, `reader` (with the digest of its weights), `tokenizer`, `memory` (how
            large a batch it holds).
        head: The reader runs whole, with its head, for the features LOGPROB and ENTROPY. Beginnings that texts share
            are then read anew for each, whatever `prefix_cache_bytes` says.

    Raises:
        SetupError: A file, setting or watchlist entry is wrong; the message names it.
    """
    laps = laps or Laps()
    set_threads(config)
    directory = find_reader(source, allow_download=config.allow_download)
    saes = [_load_sae(choice, config) for choice in sae_choices]
    laps.end("saes")
    reader = load_reader(
        directory,
        name=source.name,
        # The cache names a snapshot's folder by its commit.
        revision=directory.name if source.id else "",
        deepest_layer=max((sae.hookpoint.layer for sae in saes), default=EMBEDDING),
        device=config.device,
        dtype=config.dtype,
        compiled=config.torch_compile,
        head=head,
    )
    for sae in saes:
        with _asked_by(sae.choice):
            assert_fits(reader, sae.hookpoint, sae.watched.d_in)
    laps.end("reader")
    tokeniser, max_tokens = load_tokeniser(directory, reader, config)
    laps.end("tokenizer")
    runner = Runner(
        reader,
        [PlacedEncoder(sae.hookpoint, sae.watched.encoder) for sae in saes],
        row_tokens=ROW_TOKENS[reader.device.type],
        prefix_bytes=config.prefix_cache_bytes,
    )
    budget = config.max_batch_tokens or batch_tokens(
        runner, reader.device, max_tokens=max_tokens, kept_bytes=0 if head else config.prefix_cache_bytes
    )
    laps.end("memory")
    return Engine(
        tokeniser=tokeniser,
        runner=runner,
        identity=EngineIdentity(
            reader=identity_of(reader, tokeniser),
            saes=tuple(_identity(sae) for sae in saes),
            head=head,
        ),
        max_tokens=max_tokens,
        max_batch_tokens=budget,
    )


def load_tokeniser(directory: Path, reader: Reader, config: Config) -> tuple[Tokeniser, int]:
    """A reader's tokeniser, and the most tokens it reads of one pair.

    Raises:
        ReaderError: It is not usable, or belongs to another model.
    """
    max_tokens = min(config.max_tokens, reader.context)
    tokeniser = Tokeniser(directory, max_tokens=max_tokens)
    if tokeniser.size > reader.vocabulary:
        # On a GPU one such token would take the whole process down.
        raise ReaderError(
            f"reader {directory}: the tokenizer has {tokeniser.size} tokens, the model embeds {reader.vocabulary}; "
            "they do not belong together"
        )
    return tokeniser, max_tokens


def assert_fits(reader: Reader, hookpoint: Hookpoint, d_in: int) -> None:
    """Compares what an SAE takes in with what a reader has there.

    Raises:
        SaeError: They differ.
    """
    there = width(reader, hookpoint)
    if d_in != there:
        raise SaeError(
            f"the SAE reads vectors of {d_in}, {hookpoint} of the reader has {there}; "
            "it was made for another model or another place in it"
        )


def identity_of(reader: Reader, tokeniser: Tokeniser) -> ReaderIdentity:
    """The reader as it runs, with the template that its tokeniser renders by."""
    return replace(
        reader.identity, chat_template=tokeniser.has_chat_template, template_digest=tokeniser.template_digest
    )


def _absolute_reader(watchlist: Watchlist) -> ReaderSource:
    source = watchlist.reader
    path = str(watchlist.resolve(source.path).resolve()) if source.path else ""
    # Without the relation, in which watchlists of one reader may differ.
    return ReaderSource(path=path, id=source.id, revision=source.revision)


@contextmanager
def _asked_by(choice: SaeChoice) -> Iterator[None]:
    """Puts the watchlist's line before what is wrong with an SAE."""
    try:
        yield
    except (SaeError, HubError) as error:
        place = choice.wanted[error.feature] if isinstance(error, NoSuchFeature) else choice.asked_by
        raise SaeError(f"{place}: {error}" if place else str(error)) from None


def _load_sae(choice: SaeChoice, config: Config) -> _LoadedSae:
    with _asked_by(choice):
        found = find_sae(choice.source, allow_download=config.allow_download)
        watched = load_watched(found, list(choice.wanted), packs=_packs(config))
        hookpoint = found.hookpoint or watched.hookpoint
        if not hookpoint:
            raise SaeError(
                f"{found.path}: neither its files nor its folders say where it reads; "
                "say the hookpoint, for instance layers.20.resid_post"
            )
        return _LoadedSae(choice, watched, parse_hookpoint(hookpoint), found.neuronpedia)


def _packs(config: Config) -> PackFolder | None:
    """Explicitly named, the folder takes every pack; by default only those that save something."""
    if config.pack_dir == "auto":
        return PackFolder(Path("~/.cache/scopewatch/packs").expanduser(), smallest_bytes=32 << 20)
    return PackFolder(Path(config.pack_dir).expanduser()) if config.pack_dir else None


def _identity(sae: _LoadedSae) -> SaeIdentity:
    watched = sae.watched
    return SaeIdentity(
        name=sae.choice.name,
        format=watched.format,
        architecture=watched.architecture,
        hookpoint=str(sae.hookpoint),
        d_in=watched.d_in,
        d_sae=watched.d_sae,
        digest=watched.digest,
        watched=watched.features,
        neuronpedia=sae.neuronpedia,
        repo=watched.origin.get("repo", ""),
        revision=watched.origin.get("revision", ""),
    )
