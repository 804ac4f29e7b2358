"""Graphs in a service: made before the first caller comes, counted, told, and made anew after a reload."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import yaml
from transformers import AttentionInterface

from conftest import House, watchlist_document
from frozen import FrozenRecorder
from scopewatch.app.spine import Spine
from scopewatch.engine import build as build_module
from scopewatch.engine.cuda_graph import CudaRecorder
from scopewatch.engine.graphs import Graphs
from scopewatch.engine.worker import Run
from scopewatch.metrics import Metrics
from scopewatch.reader import loading as reader_module
from scopewatch.reader.attention import Packed
from scopewatch.reader.loading import Reader
from scopewatch.reader.packing import AttentionKind
from scopewatch.reader.tiles import Form
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from test_graphs import Stepping
from test_spine import DELTA, jobs, spine
from test_watching import asked, build


class Device:
    """What readers that are loaded from now on believe to run on: a GPU whose graphs a recorder makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorder: FrozenRecorder | None = None
        monkeypatch.setattr(reader_module, "register_attention", self._register)
        monkeypatch.setattr(build_module, "graphs_of", self._graphs_of)

    @staticmethod
    def _register(_device: torch.device, _shapes: object) -> AttentionKind:
        kind = Stepping(Form(2, 64, 4, 2), otherwise=Packed())
        AttentionInterface.register(kind.name, kind)
        return kind

    def _graphs_of(self, reader: Reader, _most_tokens: int) -> Graphs | None:
        return Graphs(reader, self.recorder, 128) if self.recorder else None


def changed(house: House) -> Watchlist:
    path = house.folder / "after.yaml"
    path.write_text(yaml.safe_dump(watchlist_document(indicators=[DELTA]), sort_keys=False))
    return load_watchlist(path)


async def one_by_one(running: Spine) -> list[object]:
    found = [outcome for job in jobs()[:3] for outcome in await running.score([job])]
    assert [ScoredPair] * 3 == [type(one) for one in found]
    return [(one.verdict, one.indicators) for one in found if isinstance(one, ScoredPair)]


def replayed(metrics: Metrics) -> float:
    lines = metrics.page("text/plain").body.decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("scopewatch_graph_passes_total{"))


async def test_a_service_replays_before_and_after_a_reload(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are there when the first caller comes, and again after a reload; they say so, and change no score."""
    device, metrics = Device(monkeypatch), Metrics()
    watchlist, after = load_watchlist(house.watchlist), changed(house)
    async with spine(watchlist, cache_bytes=0, prefix_cache_bytes=0) as plain:
        expected = [await one_by_one(plain)]
        assert 0 == plain.watchlists.engine.reader.graph_tokens
        await plain.replace_watchlists([after])
        expected.append(await one_by_one(plain))

    device.recorder = FrozenRecorder()
    async with spine(watchlist, metrics=metrics, cache_bytes=0, prefix_cache_bytes=0) as running:
        told = [(device.recorder.recordings, running.watchlists.engine.reader.graph_tokens)]
        found, counts = [await one_by_one(running)], [replayed(metrics)]
        await running.replace_watchlists([after])
        told.append((device.recorder.recordings, running.watchlists.engine.reader.graph_tokens))
        found.append(await one_by_one(running))
        counts.append(replayed(metrics))

    assert [(2, 128), (4, 128)] == told
    assert [3, 6] == counts
    assert expected == found


def test_memory_is_measured_without_graphs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells how large a batch may be is run as it comes, and what graphs hold and do not use is no batch's."""
    device = Device(monkeypatch)
    device.recorder = FrozenRecorder(idles_bytes=7)
    told: list[object] = []

    def batch_tokens(run: Run, _device: torch.device, *, max_tokens: int, held_bytes: int) -> int:
        told.append((run([np.full(100, 9, np.int32)]).graph_tokens, held_bytes))
        return max_tokens

    monkeypatch.setattr(build_module, "batch_tokens", batch_tokens)
    engine = build(house, asked(house, {"mid": [3]}), prefix_cache_bytes=0)

    assert [((), 14)] == told
    assert (128,) == engine.runner([np.full(100, 9, np.int32)]).graph_tokens
    assert 128 == engine.identity.reader.graph_tokens


class FakeCuda:
    """CUDA as a recording sees it: a stream, a graph, and a recording that may fail when it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.failure = "the engine's", ""
        self.inside: list[str] = []
        for name, answer in {
            "graph_pool_handle": lambda: "pool",
            "Stream": lambda _device: "aside",
            "device": self._device,
            "current_stream": lambda: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
            "CUDAGraph": lambda: self,
            "graph": self._graph,
            "synchronize": lambda _device: None,
            "empty_cache": lambda: None,
            "mem_get_info": lambda _device: (70, 100),
            "memory_reserved": lambda _device: 25,
            "memory_allocated": lambda _device: 20,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    @contextmanager
    def _device(self, _device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def _graph(self, graph: object, pool: str, stream: str, *, capture_error_mode: str) -> Iterator[None]:
        assert (self, "pool", "thread_local") == (graph, pool, capture_error_mode)
        self.stream = stream
        yield
        if self.failure:
            raise RuntimeError(self.failure)
        self.stream = "another"

    def replay(self) -> None:
        self.inside.append("replayed")


def test_a_cuda_recording_goes_back_to_the_engine_s_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work runs once, on a stream beside, and the engine's stream is set again, whether it could be recorded or not."""
    cuda = FakeCuda(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda:1"))

    def work() -> int:
        cuda.inside.append(cuda.stream)
        return len(cuda.inside)

    recorded = recorder.record(work)
    assert (1, "the engine's", ["aside"]) == (recorded.result, cuda.stream, cuda.inside)
    recorded.replay()
    cuda.failure = "operation not permitted when stream is capturing"
    with pytest.raises(RuntimeError, match="not permitted"):
        recorder.record(work)
    assert ("the engine's", ["aside", "replayed", "aside"]) == (cuda.stream, cuda.inside)
    assert (70, 5) == (recorder.memory().free_bytes, recorder.memory().idle_bytes)
