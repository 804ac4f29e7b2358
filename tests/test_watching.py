"""The watched set of a running engine: what it changes to is what an engine built for it gives, bit for bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import D_SAE, House, save_sae
from released import RELEASES
from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.watching import load_sae
from scopewatch.engine.worker import Worker
from scopewatch.errors import SaeError, WatchlistError
from scopewatch.identity import ENTROPY, HEAD, LOGPROB, EngineIdentity, FeatureId
from scopewatch.sae.pack import write_pack
from scopewatch.sae.tensors import Tensor
from scopewatch.sae.watched import load_watched
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, EncodedBatch
from test_dictionary import save_saelens
from test_runner import random_ids

Wanted = dict[str, list[int]]


def asked(house: House, wanted: Wanted, **files: Path) -> list[SaeChoice]:
    """Features of the house's SAEs, or of given files, by name and in this order."""
    paths = house.saes | files
    return [
        SaeChoice(
            name, SaeSource(path=str(paths[name])), dict.fromkeys(features, f"w.yaml:9: {name}"), f"w.yaml:5: {name}"
        )
        for name, features in wanted.items()
    ]


def build(house: House, choices: list[SaeChoice], *, head: bool = False, **settings: object) -> Engine:
    return build_engine(ReaderSource(path=str(house.reader)), choices, Config(**{"pack_dir": ""} | settings), head=head)


def encode(engine: Engine) -> EncodedBatch:
    rng = np.random.default_rng(4)
    return engine.runner([random_ids(rng, length) for length in (90, 3, 40)])


def assert_same(expected: EncodedBatch, actual: EncodedBatch) -> None:
    assert expected.table.features == actual.table.features
    assert sum(len(one.value) for one in expected.activations if isinstance(one, Activations))
    for one, other in zip(expected.activations, actual.activations, strict=True):
        assert isinstance(one, Activations)
        assert isinstance(other, Activations)
        for name in ("token", "column", "value"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def change(engine: Engine, choices: list[SaeChoice], *, head: bool = False) -> None:
    engine.install(engine.prepare(choices, head=head))


@pytest.fixture
def columns_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """The columns of encoders as they are read from files: name of the array and indices."""
    read: list[tuple[str, list[int]]] = []
    original: Callable[..., np.ndarray] = Tensor.columns

    def columns(self: Tensor, index: np.ndarray) -> np.ndarray:
        read.append((self.name, index.tolist()))
        return original(self, index)

    monkeypatch.setattr(Tensor, "columns", columns)
    return read


CHANGES: dict[str, tuple[Wanted, Wanted]] = {
    "more features": ({"mid": [3, 40], "late": [7]}, {"mid": [3, 5, 40, 63], "late": [7, 0]}),
    "fewer features": ({"mid": [3, 40, 9], "late": [7, 8]}, {"mid": [9], "late": [8]}),
    "others": ({"mid": [3], "late": [7]}, {"mid": [4], "late": [6, 8]}),
    "one SAE less": ({"mid": [3, 40], "late": [7]}, {"late": [7]}),
    "another order": ({"mid": [3, 40], "late": [7, 1]}, {"late": [1, 7], "mid": [40, 3]}),
    "one SAE more": ({"late": [7]}, {"late": [7], "mid": [1, 2]}),
    "the same": ({"mid": [3], "late": [7]}, {"mid": [3], "late": [7]}),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_a_changed_engine_is_one_built_anew(house: House, before: Wanted, after: Wanted) -> None:
    """After prepare and install, activations, columns and SAEs are those of an engine that was built for the set."""
    engine, fresh = build(house, asked(house, before)), build(house, asked(house, after))
    encode(engine)

    change(engine, asked(house, after))

    assert_same(encode(fresh), encode(engine))
    assert fresh.identity.saes == engine.identity.saes
    assert fresh.identity.features == engine.identity.features


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_can_be_extended(house: House, tmp_path: Path, release: str) -> None:
    """Whatever an SAE's layout and architecture, features read later are those that are read together."""
    theirs = RELEASES[release](tmp_path)
    given = {name: value for name, value in theirs.given.items() if name in {"k", "norm_factor"}}

    def whole(features: list[int]) -> SaeChoice:
        source = SaeSource(path=str(theirs.path), hookpoint="layers.1", **given)
        return SaeChoice("x", source, dict.fromkeys(features, "here"))

    config = Config(pack_dir="")
    first = load_sae(whole([3, 7]), config)
    fresh = load_sae(whole([60, 7, 11]), config)

    extended = load_sae(whole([60, 7, 11]), config, [first])

    assert fresh.identity == extended.identity
    assert fresh.watched.encoder.arrays.keys() == extended.watched.encoder.arrays.keys()
    for name in (*fresh.watched.encoder.arrays, "watched"):
        one, other = getattr(fresh.watched.encoder, name), getattr(extended.watched.encoder, name)
        np.testing.assert_array_equal(one, other)
        assert one.flags.c_contiguous == other.flags.c_contiguous


def test_beginnings_read_before_have_no_old_columns(house: House) -> None:
    """What was kept of a text's beginning is of features that are no longer watched, and is forgotten."""
    engine = build(house, asked(house, {"mid": [3, 40], "late": [7]}), prefix_cache_bytes=1 << 22)
    for _ in range(3):
        encode(engine)
    assert encode(engine).reused_tokens
    fresh = build(house, asked(house, {"late": [2, 7, 30]}), prefix_cache_bytes=0)

    change(engine, asked(house, {"late": [2, 7, 30]}))

    for _ in range(3):
        again = encode(engine)
        for one, other in zip(encode(fresh).activations, again.activations, strict=True):
            np.testing.assert_array_equal(one.column, other.column)
            np.testing.assert_allclose(one.value, other.value, rtol=1e-4, atol=1e-4)
    assert again.reused_tokens


def test_an_added_feature_reads_its_own_columns_only(house: House, columns_read: list[tuple[str, list[int]]]) -> None:
    """Of an SAE that is held, the columns of new features are read and no others; of one removed from, none."""
    engine = build(house, asked(house, {"mid": [3, 40], "late": [7, 9]}))
    del columns_read[:]

    change(engine, asked(house, {"mid": [3, 5, 40, 63], "late": [9]}))

    assert [("W_enc", [5, 63])] == columns_read


@pytest.mark.parametrize("features", [[5], [1, 5, 60], [60]])
def test_a_topk_sae_is_not_read_again(
    house: House, tmp_path: Path, columns_read: list[tuple[str, list[int]]], features: list[int]
) -> None:
    """A contest needs the whole dictionary, which is held already: no feature of it costs any reading."""
    file = save_saelens(tmp_path / "topk", "topk", k=5)
    engine = build(house, asked(house, {"topk": [1, 60], "late": [8]}, topk=file))
    fresh = build(house, asked(house, {"topk": features, "late": [7]}, topk=file))
    del columns_read[:]

    change(engine, asked(house, {"topk": features, "late": [7]}, topk=file))

    assert [("W_enc", [7])] == columns_read
    assert_same(encode(fresh), encode(engine))


def test_an_sae_under_another_name_is_the_same_sae(house: House, columns_read: list[tuple[str, list[int]]]) -> None:
    """What a watchlist calls an SAE does not matter: it is known by where it is."""
    engine = build(house, asked(house, {"mid": [3, 40]}))
    del columns_read[:]

    change(engine, asked(house, {"renamed": [3]}, renamed=house.saes["mid"]))

    assert not columns_read
    assert ["renamed/3"] == [str(feature) for feature in engine.identity.features]


def test_files_that_changed_are_read_anew(house: House, tmp_path: Path) -> None:
    """Where the files of an SAE are others by now, its old columns are not put beside new ones."""
    file = save_sae(tmp_path, 1, seed=5)
    engine = build(house, asked(house, {"own": [3, 40]}, own=file))
    shutil.copy(save_sae(tmp_path / "new", 1, seed=6), file)
    fresh = build(house, asked(house, {"own": [3, 5]}, own=file))

    change(engine, asked(house, {"own": [3, 5]}, own=file))

    assert_same(encode(fresh), encode(engine))


def test_until_it_is_installed_nothing_changes(house: House) -> None:
    """Preparing leaves batches and identity as they are; installing changes both."""
    engine = build(house, asked(house, {"mid": [3, 40], "late": [1]}))
    before, identity = encode(engine), engine.identity

    watching = engine.prepare(asked(house, {"late": [7]}), head=False)

    assert identity is engine.identity
    assert_same(before, encode(engine))
    engine.install(watching)
    assert watching.identity is engine.identity
    assert watching.table is encode(engine).table
    assert watching.table.features == engine.identity.feature_ids


async def test_the_set_changes_between_two_batches(house: House) -> None:
    """Installed as a job, a set takes its turn: batches before it have the old table, those behind it the new one."""
    engine = build(house, asked(house, {"mid": [3, 40], "late": [1]}))
    worker = Worker(engine.runner, lambda _: None)
    ids = [random_ids(np.random.default_rng(1), 30)]
    try:
        old = engine.identity.feature_ids
        watching = engine.prepare(asked(house, {"mid": [3], "late": [7]}), head=False)
        before = await worker.encode(ids)
        await worker.run(lambda: engine.install(watching))
        after = await worker.encode(ids)
    finally:
        worker.stop()

    assert old == before.table.features != after.table.features
    assert watching.table is after.table


# What cannot be watched without a restart.


def test_a_deeper_layer_is_refused(house: House, tmp_path: Path) -> None:
    """A hookpoint below what is loaded needs another reader: the place is named, and what to do."""
    engine = build(house, asked(house, {"mid": [3]}))
    before = encode(engine)

    with pytest.raises(
        WatchlistError, match=r"^w\.yaml:5: late: layers\.2\.resid_post lies deeper .*restart the service"
    ):
        engine.prepare(asked(house, {"mid": [3], "late": [7]}), head=False)

    assert_same(before, encode(engine))


def test_the_head_is_refused_where_it_is_not_loaded(house: House) -> None:
    """The reader's own predictions need all its layers and its head."""
    engine = build(house, asked(house, {"mid": [3]}))

    with pytest.raises(WatchlistError, match="its head is not loaded; restart the service"):
        engine.prepare(asked(house, {"mid": [3]}), head=True)


def test_wrong_features_and_files_are_refused_by_their_place(house: House, tmp_path: Path) -> None:
    """A feature the SAE lacks, a file that is not there and a pack without the feature are named as at the start."""
    pack = tmp_path / "pack.safetensors"
    write_pack(load_watched(house.saes["mid"], [1, 2]), pack)
    engine = build(house, asked(house, {"mid": [3], "pack": [1]}, pack=pack))

    with pytest.raises(SaeError, match=r"^w\.yaml:9: mid: there is no feature 64"):
        engine.prepare(asked(house, {"mid": [3, D_SAE]}), head=False)
    with pytest.raises(SaeError, match=r"^w\.yaml:9: pack: there is no feature 5 in the watch pack"):
        engine.prepare(asked(house, {"pack": [1, 5]}, pack=pack), head=False)
    with pytest.raises(SaeError, match=r"^w\.yaml:5: gone: "):
        engine.prepare(asked(house, {"gone": [1]}, gone=tmp_path / "gone.npz"), head=False)


def test_a_feature_of_a_topk_sae_must_exist(house: House, tmp_path: Path) -> None:
    """That a whole dictionary is held does not make up features it lacks."""
    file = save_saelens(tmp_path / "topk", "topk", k=5)
    engine = build(house, asked(house, {"topk": [1]}, topk=file))

    with pytest.raises(SaeError, match=r"^w\.yaml:9: topk: there is no feature 66"):
        engine.prepare(asked(house, {"topk": [1, 66]}, topk=file), head=False)


# The reader's head.


@pytest.mark.parametrize("head", [True, False])
def test_a_reader_with_its_head_gives_its_predictions_where_they_are_watched(house: House, head: bool) -> None:
    """With the head loaded its two columns come and go with the set; SAE columns are the same either way."""
    engine = build(house, asked(house, {"mid": [3, 40]}), head=True)

    change(engine, asked(house, {"mid": [3, 40], "late": [7]}), head=head)

    expected = encode(build(house, asked(house, {"mid": [3, 40], "late": [7]}), head=True))
    encoded = encode(engine)
    assert ((LOGPROB, ENTROPY) if head else ()) == engine.identity.features[3:]
    assert len(engine.identity.features) == len(encoded.table.features)
    for one, other in zip(expected.activations, encoded.activations, strict=True):
        kept = one.column < len(encoded.table.features)
        np.testing.assert_array_equal(one.column[kept], other.column)
        np.testing.assert_array_equal(one.value[kept], other.value)


# Which feature a column is.


def identity(house: House, wanted: Wanted, *, head: bool = False, **files: Path) -> EngineIdentity:
    return build(house, asked(house, wanted, **files), head=head).identity


def test_a_feature_is_the_same_whatever_else_is_watched(house: House) -> None:
    """Neither other features, a deeper reader, the SAE's name nor the head change what a feature is known by."""
    small = identity(house, {"mid": [3]}).feature_ids
    large = identity(house, {"late": [7, 1], "renamed": [2, 3]}, head=True, renamed=house.saes["mid"]).feature_ids

    assert 16 == len(small[0].producer)
    assert [1, 7, 2, 3, LOGPROB.index, ENTROPY.index] == [feature.column for feature in large]
    assert small[0] == large[3]
    assert 3 == len({feature.producer for feature in large})


def test_what_changes_numbers_changes_the_feature(house: House, tmp_path: Path) -> None:
    """Another SAE, another hookpoint or other weights up to there are another feature; deeper weights are not."""
    table = identity(house, {"mid": [3]}).feature_ids
    other_sae = save_sae(tmp_path, 1, seed=9)
    moved = SaeChoice("mid", SaeSource(path=str(house.saes["mid"]), hookpoint="layers.0"), {3: ""})

    tables = [table, identity(house, {"x": [3]}, x=other_sae).feature_ids, build(house, [moved]).identity.feature_ids]

    assert 3 == len(set(tables))


def test_without_layer_digests_the_readers_own_is_used(house: House) -> None:
    """An identity that knows no digest by depth, as older files have it, falls back to that of all weights."""
    whole = identity(house, {"mid": [3]})
    without = replace(whole, reader=replace(whole.reader, layer_digests=()))
    deeper = replace(whole, reader=replace(whole.reader, layer_digests=(), digest="0" * 64))

    # No deeper layer is loaded than the one that is watched.
    assert whole.feature_ids == without.feature_ids
    assert whole.feature_ids != deeper.feature_ids


def test_the_embedding_is_before_the_first_layer(house: House, tmp_path: Path) -> None:
    """What reads the embedding depends on no layer."""
    choice = SaeChoice("mid", SaeSource(path=str(house.saes["mid"]), hookpoint="embed"), {3: ""})
    late = asked(house, {"late": [7]})

    assert build(house, [choice]).identity.feature_ids[0] == build(house, [*late, choice]).identity.feature_ids[1]


def test_the_heads_features_are_of_the_whole_reader(house: House) -> None:
    """The two numbers of the head are known by all of the reader's weights."""
    one = identity(house, {"mid": [3]}, head=True)

    assert (LOGPROB.index, ENTROPY.index) == tuple(feature.column for feature in one.feature_ids[1:])
    assert isinstance(one.feature_ids[1], FeatureId)
    assert HEAD == LOGPROB.sae
    assert one.feature_ids[1].producer == one.feature_ids[2].producer != one.feature_ids[0].producer
