"""Builds an engine: which reader, which SAEs, which features."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from scopewatch.config import Config
from scopewatch.engine.hookpoints import Hookpoint, parse_hookpoint
from scopewatch.engine.reader import Reader, find_reader, load_reader
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.engine.text import Tokeniser
from scopewatch.errors import NoSuchFeature, ReaderError, SaeError, WatchlistError
from scopewatch.sae.gemma_scope import layer_of, load_columns
from scopewatch.types import EngineIdentity, SaeIdentity
from scopewatch.watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class ReaderChoice:
    """A reader by directory or by hub id."""

    path: Path | None
    hub_id: str = ""
    revision: str = ""

    @property
    def name(self) -> str:
        return self.hub_id or (self.path.resolve().name if self.path else "")


@dataclass(slots=True)
class SaeChoice:
    """An SAE and the features wanted of it."""

    name: str
    file: Path
    hookpoint: str = ""
    """Empty: the layer that the file's path names."""
    wanted: dict[int, str] = field(default_factory=dict)
    """Feature index to the place in a watchlist that asks for it."""
    asked_by: str = ""
    """Place in a watchlist, for messages."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that reads text: callables for the pipeline and what they are."""

    tokeniser: Tokeniser
    runner: Runner
    identity: EngineIdentity
    max_tokens: int
    """Most tokens read of one pair: the setting, or the reader's context if that is shorter."""


def choices(watchlists: Sequence[Watchlist]) -> tuple[ReaderChoice, list[SaeChoice]]:
    """What the watchlists ask for together.

    Raises:
        WatchlistError: They ask for different readers, or call different SAEs by one name.
    """
    readers = [_reader_choice(watchlist) for watchlist in watchlists]
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
            choice = SaeChoice(name, watchlist.resolve(source.path), source.hookpoint, asked_by=place)
            known = saes.setdefault(name, choice)
            if (known.file.resolve(), known.hookpoint) != (choice.file.resolve(), choice.hookpoint):
                raise WatchlistError(f"{place}: another watchlist calls a different SAE {name!r}; rename one")
        for feature, location in watchlist.features.items():
            saes[feature.sae].wanted.setdefault(feature.index, watchlist.where(*location))
    return readers[0], [saes[name] for name in sorted(saes) if saes[name].wanted]


def build_engine(reader_choice: ReaderChoice, sae_choices: Sequence[SaeChoice], config: Config) -> Engine:
    """Loads a reader down to the deepest watched layer, its tokenizer and the watched columns of its SAEs.

    Raises:
        SetupError: A file, setting or watchlist entry is wrong; the message names it.
    """
    # One core is left to the event loop and the tokenizer: where threads outnumber cores, each layer waits for the
    # scheduler.
    torch.set_num_threads(config.torch_threads or max(1, torch.get_num_threads() - 1))
    directory = find_reader(
        reader_choice.path, reader_choice.hub_id, reader_choice.revision, allow_download=config.allow_download
    )
    placed = [_place(choice) for choice in sae_choices]
    reader = load_reader(
        directory,
        name=reader_choice.name,
        revision=reader_choice.revision,
        deepest_layer=max(encoder.hookpoint.layer for encoder in placed),
        device=config.device,
        dtype=config.dtype,
    )
    for choice, encoder in zip(sae_choices, placed, strict=True):
        if encoder.columns.d_in != reader.hidden_size:
            raise SaeError(
                f"{choice.asked_by or choice.file}: the SAE reads vectors of {encoder.columns.d_in}, "
                f"the reader's residual stream has {reader.hidden_size}; it was made for another model"
            )
    max_tokens = min(config.max_tokens, reader.context)
    tokeniser = Tokeniser(directory, max_tokens=max_tokens)
    if tokeniser.size > reader.vocabulary:
        # On a GPU one such token would take the whole process down.
        raise ReaderError(
            f"reader {directory}: the tokenizer has {tokeniser.size} tokens, the model embeds {reader.vocabulary}; "
            "they do not belong together"
        )
    return Engine(
        tokeniser=tokeniser,
        runner=Runner(reader, placed, max_batch_tokens=config.max_batch_tokens),
        identity=_identity(reader, tokeniser, sae_choices, placed),
        max_tokens=max_tokens,
    )


def _reader_choice(watchlist: Watchlist) -> ReaderChoice:
    source = watchlist.reader
    return ReaderChoice(watchlist.resolve(source.path).resolve() if source.path else None, source.id, source.revision)


def _place(choice: SaeChoice) -> PlacedEncoder:
    def told(error: SaeError, place: str) -> SaeError:
        return SaeError(f"{place}: {error}" if place else str(error))

    try:
        columns = load_columns(choice.file, list(choice.wanted))
        return PlacedEncoder(_hookpoint(choice), columns)
    except NoSuchFeature as error:
        raise told(error, choice.wanted[error.feature]) from None
    except SaeError as error:
        raise told(error, choice.asked_by) from None


def _hookpoint(choice: SaeChoice) -> Hookpoint:
    layer = layer_of(choice.file)
    if choice.hookpoint:
        return parse_hookpoint(choice.hookpoint)
    if layer is None:
        raise SaeError(
            f"{choice.file}: the path names no layer_N; say the hookpoint, for instance layers.20.resid_post"
        )
    return Hookpoint(layer)


def _identity(
    reader: Reader, tokeniser: Tokeniser, chosen: Sequence[SaeChoice], placed: Sequence[PlacedEncoder]
) -> EngineIdentity:
    return EngineIdentity(
        reader=replace(reader.identity, chat_template=tokeniser.has_chat_template),
        saes=tuple(
            SaeIdentity(
                name=choice.name,
                format=encoder.columns.format,
                architecture=encoder.columns.architecture,
                hookpoint=str(encoder.hookpoint),
                d_in=encoder.columns.d_in,
                d_sae=encoder.columns.d_sae,
                digest=encoder.columns.digest,
                watched=tuple(sorted(choice.wanted)),
            )
            for choice, encoder in zip(chosen, placed, strict=True)
        ),
    )
