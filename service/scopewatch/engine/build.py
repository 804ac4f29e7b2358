"""Builds an engine: a reader, what is watched in it, and all that makes activations of text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from scopewatch.config import Config
from scopewatch.engine.budget import batch_tokens
from scopewatch.engine.choices import SaeChoice, asked_by
from scopewatch.engine.cuda_graph import CudaRecorder
from scopewatch.engine.graph_lengths import MOST_TOKENS
from scopewatch.engine.graphs import Graphs
from scopewatch.engine.passes import ROW_TOKENS
from scopewatch.engine.runner import Runner
from scopewatch.engine.watching import LoadedSae, Watching, assert_bos, assert_excluded, load_sae, watching_of
from scopewatch.errors import ConfigError, ReaderError, SaeError, WatchlistError
from scopewatch.identity import EngineIdentity, ReaderIdentity
from scopewatch.logs import Laps
from scopewatch.reader.find import find_reader
from scopewatch.reader.hookpoints import EMBEDDING, Hookpoint, width
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sae.encoder import Training
from scopewatch.sources import ReaderSource, Rendering
from scopewatch.types import Rounding


@dataclass(slots=True)
class Engine:
    """Everything that reads text; made by `build_engine`."""

    reader: Reader
    """The reader, which `runner` runs."""
    tokeniser: Tokeniser
    """The reader's."""
    runner: Runner
    """Makes activations of what is watched."""
    watching: Watching
    """The features that are watched now."""
    config: Config
    """Settings, for what is loaded later."""
    max_tokens: int
    """The most tokens of one pass over a pair: the setting, or the reader's context if that is shorter."""
    max_batch_tokens: int
    """Tokens to compute at once: the setting, or what the device's memory holds."""
    graphs: Graphs | None = None
    """The graphs that small passes are replayed from; `install` forgets them. None where there are none."""

    @property
    def identity(self) -> EngineIdentity:
        """The reader and the SAEs as they run, with the features that are watched now."""
        return self.watching.identity

    def prepare(self, saes: Sequence[SaeChoice], *, head: bool) -> Watching:
        """Loads what another set of features needs and this engine does not hold; batches may run meanwhile.

        Args:
            saes: The SAEs, in the order of the columns, at least one unless the head runs.
            head: Whether the reader's own predictions are watched too.

        Raises:
            WatchlistError: A part of the reader is needed that is not loaded.
            SetupError: A file or watchlist entry is wrong; the message names it.
        """
        if head and not self.reader.head:
            raise WatchlistError(
                "the reader's own predictions are asked for and its head is not loaded; restart the service"
            )
        loaded = [self._load(choice) for choice in saes]
        return _with_graphs(watching_of(identity_of(self.reader, self.tokeniser), loaded, head=head), self.graphs)

    def install(self, watching: Watching) -> None:
        """Watches another set of features from now on; call it where batches run, between two of them.

        Args:
            watching: From `prepare`.
        """
        self.runner.watch(watching.encoders, watching.table, head=watching.identity.head)
        self.watching = watching

    def _load(self, choice: SaeChoice) -> LoadedSae:
        sae = load_sae(choice, self.config, self.watching.saes)
        layers = self.reader.identity.layers_run
        if sae.hookpoint.layer >= layers:
            place = f"{choice.asked_by}: " if choice.asked_by else ""
            raise WatchlistError(
                f"{place}{sae.hookpoint} lies deeper than the {layers} layers of the reader that are loaded; "
                "restart the service"
            )
        with asked_by(choice):
            assert_fits(self.reader, sae.hookpoint, sae.watched.d_in)
            assert_trained_alike(sae.watched.training, self.tokeniser)
        return sae


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
    rounding: Rounding = "none",
) -> Engine:
    """Loads a reader down to the deepest watched layer, its tokenizer and the watched columns of its SAEs.

    Args:
        source: Where the reader is; a path counts from the working directory.
        sae_choices: The SAEs, in the order of the columns; at least one, unless the head runs.
        config: Settings.
        laps: Is told what took how long: `saes`, `reader` (with the digest of its weights), `tokenizer`, `graphs` (of
            small passes, on a GPU), `memory` (how large a batch it holds).
        head: Whether the reader runs whole, with its head, for the features LOGPROB and ENTROPY. Beginnings that texts
            share are then read anew for each, whatever `prefix_cache_bytes` says. Where `explain_whole` is set and this
            is not, the reader is loaded whole and runs no deeper for that.
        rounding: The format that the reader's weights are rounded to; its identity does not say so.

    Raises:
        SetupError: A file, setting or watchlist entry is wrong; the message names it.
    """
    laps = laps or Laps()
    set_threads(config)
    directory = find_reader(source, config)
    saes = [load_sae(choice, config) for choice in sae_choices]
    laps.end("saes")
    deepest_layer = max((sae.hookpoint.layer for sae in saes), default=EMBEDDING)
    whole = head or config.explain_whole
    reader = load_found(directory, source, config, deepest_layer=deepest_layer, head=whole, rounding=rounding)
    for choice, sae in zip(sae_choices, saes, strict=True):
        with asked_by(choice):
            assert_fits(reader, sae.hookpoint, sae.watched.d_in)
    laps.end("reader")
    tokeniser, max_tokens = load_tokeniser(directory, reader, config, source.rendering)
    for choice, sae in zip(sae_choices, saes, strict=True):
        with asked_by(choice):
            assert_trained_alike(sae.watched.training, tokeniser)
    laps.end("tokenizer")
    watching = watching_of(identity_of(reader, tokeniser), saes, head=head)
    graphs = graphs_of(reader, config.graph_tokens)
    runner = Runner(
        reader,
        watching.encoders,
        row_tokens=ROW_TOKENS[reader.device.type],
        prefix_bytes=config.prefix_cache_bytes,
        table=watching.table,
        head=head,
        graphs=graphs,
    )
    if graphs:
        graphs.record_all()
        laps.end("graphs")
    held_bytes = runner.pending_bytes + (graphs.idle_bytes if graphs else 0)
    budget = config.max_batch_tokens or batch_tokens(
        runner.plainly, reader.device, max_tokens=max_tokens, held_bytes=held_bytes
    )
    laps.end("memory")
    watching = _with_graphs(watching, graphs)
    return Engine(reader, tokeniser, runner, watching, config, max_tokens, budget, graphs)


def graphs_of(reader: Reader, most_tokens: int) -> Graphs | None:
    """The graphs of a reader's small passes, of which none is recorded yet; None where there shall be none.

    Args:
        reader: The reader.
        most_tokens: The setting `graph_tokens`.

    Raises:
        ConfigError: There can be none on this device.
    """
    kind = reader.device.type
    if kind != "cuda" and most_tokens > 0:
        raise ConfigError(f"graph_tokens {most_tokens}: only a GPU replays passes, and the reader runs on a {kind}")
    tokens = MOST_TOKENS[kind] if most_tokens < 0 else most_tokens
    return Graphs(reader, CudaRecorder(reader.device), tokens) if tokens else None


def _with_graphs(watching: Watching, graphs: Graphs | None) -> Watching:
    """The same, told of with the length of the longest pass that is replayed."""
    told = replace(watching.identity.reader, graph_tokens=graphs.most_tokens if graphs else 0)
    return replace(watching, identity=replace(watching.identity, reader=told))


def load_found(
    directory: Path,
    source: ReaderSource,
    config: Config,
    *,
    deepest_layer: int,
    head: bool = False,
    rounding: Rounding = "none",
) -> Reader:
    """Loads a reader by the settings; see `load_reader`.

    Args:
        directory: The reader's directory, from `find_reader`.
        source: Where the reader is, as it was asked for.
        config: Settings.
        deepest_layer: Deepest watched layer.
        head: Whether to load all layers and the output head.
        rounding: The format that the weights are rounded to.
    """
    return load_reader(
        directory,
        name=source.name,
        revision=source.revision_in(directory),
        deepest_layer=deepest_layer,
        device=config.device,
        dtype=config.dtype,
        fused=config.fused == "auto",
        attention_kind=config.attention,
        head=head,
        rounding=rounding,
    )


def load_tokeniser(directory: Path, reader: Reader, config: Config, rendering: Rendering) -> tuple[Tokeniser, int]:
    """A reader's tokeniser, and the most tokens it reads of one pair in one pass.

    Raises:
        ReaderError: The tokenizer is not usable, or belongs to another model.
    """
    max_tokens = min(config.max_tokens, reader.context)
    tokeniser = Tokeniser(directory, max_tokens=max_tokens, max_windows=config.windows, rendering=rendering)
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


def assert_trained_alike(training: Training, tokeniser: Tokeniser) -> None:
    """Compares what an SAE's files say of the texts that it was trained on with what a reader reads.

    Raises:
        SaeError: BOS stands before the ones and not before the others, or a token counts that was left out of training.
    """
    if training != Training():
        assert_bos(training, bos=tokeniser.bos, reads_bos=tokeniser.reads_bos, has_bos=tokeniser.has_bos)
        assert_excluded(training, tokeniser.special_ids)


def identity_of(reader: Reader, tokeniser: Tokeniser) -> ReaderIdentity:
    """The reader as it runs, with how its tokeniser renders conversations."""
    return replace(
        reader.identity,
        chat_template=tokeniser.has_chat_template,
        template_digest=tokeniser.template_digest,
        rendering_digest=tokeniser.rendering_digest,
    )
