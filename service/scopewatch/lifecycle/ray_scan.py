"""A scan on Ray: tasks read the files, actors that hold the engine score them, and this process saves what they found.

Ray Data moves chunks from the tasks to the actors and their rows here. A worker that is killed is replaced, and what
it had is done again elsewhere; a chunk that was saved is not. Only this process writes, so a cluster needs no folder
that all write to; the data files, the watchlist and what it names have to be readable under the same paths everywhere.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from scopewatch.addresses import host_and_port
from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.config.for_ray import settle_ray
from scopewatch.errors import ConfigError, ScopewatchError
from scopewatch.lifecycle.chunks import Chunk, Unread, chunks_of
from scopewatch.lifecycle.result_rows import Origin, scored
from scopewatch.lifecycle.scan import Saving, Wanted, parts_for
from scopewatch.lifecycle.shards import Row, Scanned
from scopewatch.pairs.columns import Columns

LOCAL = "local"
"""The address that stands for this machine alone."""
_CONNECT_S = 5.0
_Batch = dict[str, Any]
"""What Ray Data moves: a column of one value."""


@dataclass(frozen=True, slots=True)
class Judges:
    """What every process that scores has to agree on."""

    origin: Origin
    indicators: tuple[str, ...]
    """The names of the watchlist's indicators."""

    @classmethod
    def of(cls, loaded: Loaded, config: Config) -> "Judges":
        """What a process scores with."""
        (watchlist,) = loaded.watchlists
        origin = Origin.of(watchlist, loaded.engine.identity, config.max_tokens)
        return cls(origin, tuple(indicator.name for indicator in watchlist.indicators))


@dataclass(frozen=True, slots=True)
class Found:
    """What an actor found of a chunk."""

    judges: Judges
    chunk: Chunk
    rows: Sequence[Row]
    """The chunk's rows of the result."""


@dataclass(frozen=True, slots=True)
class Each:
    """What the processes that score are given."""

    workers: int
    """How many there are."""
    threads: int
    """The processors of each, and so the threads of its engine."""
    gpus: float
    """The GPUs of each."""


class Scoring:
    """An actor: the engine of one process.

    Args:
        config: The settings, with a single watchlist.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        loaded = load(config)
        self._judges = Judges.of(loaded, config)
        # Whoever lets go of it closes it.
        self._open = offline(config, loaded)
        self._spine = self._loop.run_until_complete(self._open.__aenter__())

    def __call__(self, batch: _Batch) -> _Batch:
        """What was found of a chunk; or the error that kept it from being read, or scored."""
        chunk = _held(batch)
        if isinstance(chunk, ScopewatchError):
            return batch
        try:
            score = scored([chunk], self._spine.score, self._judges.indicators, self._config.at_once)
            (rows,) = self._loop.run_until_complete(score)
        except ScopewatchError as error:
            return _batch(error)
        return _batch(Found(self._judges, chunk, rows))


def scan_on_ray(wanted: Wanted, config: Config, *, address: str, workers: int) -> Scanned | signal.Signals:
    """Scores every row of files on Ray, until all is done or a signal stops it; the numbers are those of one process.

    Args:
        wanted: What to do.
        config: The settings, with a single watchlist.
        address: Where Ray runs: `LOCAL`, `auto` for the cluster that this process is in, or a cluster's address.
        workers: How many processes score.

    Raises:
        ConfigError: Ray is not installed, or does not run there.
        ScopewatchError: As `lifecycle.scan.scan_files` does.
    """
    threads = config.torch_threads or (max(1, (os.cpu_count() or 1) // workers) if address == LOCAL else 1)
    config = config.model_copy(update={"shadow": (), "torch_threads": threads})
    try:
        with _ray(address, cpus=threads * workers + 1) as ray, _stopped_by_signals():
            gpus = float(config.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
            each = Each(workers, threads, gpus)
            judges = _value(ray.get(ray.remote(num_cpus=threads, num_gpus=gpus)(_judges).remote(config)))
            with (
                parts_for(wanted, judges.origin, judges.indicators) as parts,
                Saving(parts, wanted.reading) as saving,
            ):
                for found in _found(ray, parts.unread, wanted.reading.columns, config, each):
                    if found.judges != judges:
                        raise ConfigError(
                            f"--ray: workers score by {found.judges.origin} and {judges.origin}; give all one watchlist"
                        )
                    saving.add(found.chunk, found.rows)
                return parts.finish()
    except _Stopped as stopped:
        return stopped.signal


@contextmanager
def _ray(address: str, cpus: int) -> Iterator[Any]:
    """Ray, connected; on this machine it begins and ends here.

    Raises:
        ConfigError: It is not installed, or cannot be reached.
    """
    settle_ray()
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--ray: Ray is not installed; pip install 'scopewatch[ray]'") from None
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address == LOCAL:
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            if address != "auto":
                # Ray itself asks a cluster that is not there for more than a minute.
                socket.create_connection(host_and_port(address.removeprefix("ray://")), _CONNECT_S).close()
            ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray {address}: {str(error).splitlines()[0]}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Each chunk is a block of its own, or one actor would get all of a file of some megabytes.
    context.target_max_block_size = 1
    try:
        yield ray
    finally:
        ray.shutdown()


def _found(ray: Any, unread: Sequence[Unread], columns: Columns, config: Config, each: Each) -> Iterator[Found]:
    """What the actors found, as it comes.

    Raises:
        ScopewatchError: A file cannot be read, or the scorer failed altogether.
    """
    if not unread:
        return
    files = ray.data.range(len(unread), override_num_blocks=len(unread))
    # A file's reader waits for the actors most of the time, and needs no processor kept for it.
    chunks = files.map_batches(_read, fn_kwargs={"unread": unread, "columns": columns}, batch_size=1, num_cpus=0)
    found = chunks.map_batches(
        Scoring,
        fn_constructor_args=(config,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=each.workers),
        num_cpus=each.threads,
        num_gpus=each.gpus,
    )
    # What fails is raised here, too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        for batch in found.iter_batches(batch_size=1, prefetch_batches=0):
            yield _value(_held(batch))
    except ray.exceptions.RayError as error:
        raise ScopewatchError(f"--ray: {str(error).strip().splitlines()[-1]}") from None


class _Stopped(BaseException):
    """A signal asks for the end; nothing that catches errors on the way may keep it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def stop(number: int, _: object) -> None:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)


def _read(batch: _Batch, unread: Sequence[Unread], columns: Columns) -> Iterator[_Batch]:
    try:
        for chunk in chunks_of(unread[int(batch["id"][0])], columns):
            yield _batch(chunk)
    except ScopewatchError as error:
        yield _batch(error)


def _judges(config: Config) -> Judges | ScopewatchError:
    try:
        return Judges.of(load(config), config)
    except ScopewatchError as error:
        return error


def _value(found: Any) -> Any:
    """What came of a worker, unless it is an error, which Ray would wrap into one of its own."""
    if isinstance(found, ScopewatchError):
        raise found
    return found


def _batch(value: object) -> _Batch:
    held = np.empty(1, object)
    held[0] = value
    return {"value": held}


def _held(batch: _Batch) -> Any:
    return batch["value"][0]
