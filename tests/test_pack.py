"""Watch packs: the same numbers as the SAE they were made of, used only while they are true."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import save_sae
from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.sae.encoder import Contest, WatchedSae
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack, load_pack, write_pack
from scopewatch.sae.safetensors_file import open_safetensors
from scopewatch.sae.watched import PackFolder, load_watched
from scopewatch.sae.weights import Sae
from scopewatch.sources import FoundSae

FEATURES = [40, 3, 11]


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    return save_sae(tmp_path / "sae", 1)


@pytest.fixture
def packs(tmp_path: Path) -> PackFolder:
    return PackFolder(tmp_path / "packs")


def arrays(watched: WatchedSae) -> dict[str, list[object]]:
    encoder = watched.encoder
    return {name: getattr(encoder, name).tolist() for name in ("W_enc", "b_enc", "threshold", "watched")}


def facts(watched: WatchedSae) -> WatchedSae:
    """Everything but the arrays."""
    return replace(watched, encoder=None, files=dict(watched.files), origin=dict(watched.origin))


def test_a_pack_gives_what_the_sae_gives(sae: Path, packs: PackFolder) -> None:
    """The second start reads the pack, and neither arrays nor facts differ by a bit."""
    first = load_watched(sae, FEATURES, packs=packs)
    (pack,) = packs.path.iterdir()
    second = load_watched(sae, FEATURES, packs=packs)

    assert is_pack(pack)
    assert facts(load_watched(sae, FEATURES)) == facts(first) == facts(second)
    assert arrays(load_watched(sae, FEATURES)) == arrays(first) == arrays(second)


def test_the_second_start_does_not_read_the_dictionary(
    sae: Path, packs: PackFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pack neither encoder nor digest is computed from the SAE."""
    load_watched(sae, FEATURES, packs=packs)

    def read(*_: object) -> None:
        raise AssertionError("the SAE was read")

    monkeypatch.setattr(Sae, "encoder", read)
    monkeypatch.setattr(Sae, "digests", read)

    assert (3, 11, 40) == load_watched(sae, FEATURES, packs=packs).features


def replaced_unseen(sae: Path) -> None:
    """Written anew under the same size and modification time, as tools that copy times leave it."""
    before = sae.stat()
    sae.write_bytes(sae.read_bytes())
    os.utime(sae, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda sae: save_sae(sae.parents[4], 1, seed=5),
        lambda sae: os.utime(sae, ns=(1, 1)),
        replaced_unseen,
    ],
    ids=["other numbers", "other time", "the same size and time"],
)
def test_a_changed_sae_gets_another_pack(sae: Path, packs: PackFolder, change: Callable[[Path], object]) -> None:
    """A pack of a file that has changed is not used."""
    load_watched(sae, FEATURES, packs=packs)
    change(sae)
    again = load_watched(sae, FEATURES, packs=packs)

    assert arrays(load_watched(sae, FEATURES)) == arrays(again)
    assert 2 == len(list(packs.path.iterdir()))


def test_other_features_get_another_pack(sae: Path, packs: PackFolder) -> None:
    """A watchlist that watches one feature more does not get an old pack."""
    load_watched(sae, FEATURES, packs=packs)

    assert (3, 5, 11, 40) == load_watched(sae, [5, *FEATURES], packs=packs).features


def flip(file: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 0x10
    file.write_bytes(damaged)


def rewrite(**changes: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        told = json.loads(open_safetensors(file).metadata["scopewatch_pack"]) | changes
        save_file(load_file(file), file, {"scopewatch_pack": json.dumps(told)})

    return change


DAMAGES = {
    "flipped bit": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "other schema": rewrite(schema=99),
    "features that do not fit": rewrite(features=[1]),
    "no facts": lambda file: save_file(load_file(file), file, {"scopewatch_pack": "[]"}),
    "no JSON": lambda file: save_file(load_file(file), file, {"scopewatch_pack": "{"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_pack_is_made_anew(sae: Path, packs: PackFolder, damage: Callable[[Path], object]) -> None:
    """A pack that is not whole costs one reading of the SAE and is mended."""
    load_watched(sae, FEATURES, packs=packs)
    (pack,) = packs.path.iterdir()
    damage(pack)
    again = load_watched(sae, FEATURES, packs=packs)

    assert arrays(load_watched(sae, FEATURES)) == arrays(again) == arrays(load_pack(pack))


@pytest.mark.parametrize("damage", [DAMAGES["flipped bit"], DAMAGES["other schema"], DAMAGES["no facts"]])
def test_a_damaged_pack_that_was_named_is_refused(sae: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Where the pack is all there is, damage is an error that names it."""
    pack = tmp_path / "res.safetensors"
    write_pack(load_watched(sae, FEATURES), pack)
    damage(pack)

    with pytest.raises(SaeError, match=r"res\.safetensors.*make (the watch pack|it) anew"):
        load_watched(pack, [3])


def test_a_folder_that_cannot_be_written_costs_only_the_pack(sae: Path, tmp_path: Path) -> None:
    """Where no pack can be left, the SAE is read, as on a read-only file system."""
    (tmp_path / "packs").write_text("a file")

    assert (3, 11, 40) == load_watched(sae, FEATURES, packs=PackFolder(tmp_path / "packs")).features


def test_small_saes_get_no_pack(sae: Path, tmp_path: Path) -> None:
    """Below the folder's least size there is nothing to save."""
    packs = PackFolder(tmp_path / "packs", smallest_bytes=sae.stat().st_size + 1)
    load_watched(sae, FEATURES, packs=packs)

    assert not packs.path.exists()


def test_a_pack_travels_alone(sae: Path, tmp_path: Path) -> None:
    """A pack named in place of the SAE gives any of its features after the SAE is gone, and refuses others."""
    pack = tmp_path / "res.safetensors"
    whole = load_watched(sae, FEATURES)
    write_pack(whole, pack)
    sae.unlink()
    part = load_watched(pack, [40, 3])

    assert (3, 40) == part.features
    assert whole.encoder.W_enc[:, [0, 2]].tolist() == part.encoder.W_enc.tolist()
    assert whole.encoder.threshold[[0, 2]].tolist() == part.encoder.threshold.tolist()
    assert (whole.digest, whole.hookpoint, whole.d_sae) == (part.digest, part.hookpoint, part.d_sae)
    with pytest.raises(NoSuchFeature, match="no feature 5 in the watch pack"):
        load_watched(pack, [3, 5])


def test_a_gated_sae_keeps_its_magnitudes(sae: Path, tmp_path: Path) -> None:
    """What an open gate is worth is in the pack too."""
    watched = load_watched(sae, FEATURES)
    rng = np.random.default_rng(0)
    scale, offset = rng.normal(size=(2, 3)).astype(np.float32)
    gated = replace(watched, encoder=replace(watched.encoder, scale=scale, offset=offset))
    write_pack(gated, tmp_path / "p.safetensors")
    kept = load_watched(tmp_path / "p.safetensors", [3, 40]).encoder

    assert kept.scale is not None
    assert kept.offset is not None
    assert scale[[0, 2]].tolist() == kept.scale.tolist()
    assert offset[[0, 2]].tolist() == kept.offset.tolist()


def test_features_that_compete_have_no_pack(sae: Path, packs: PackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TopK SAE needs every column: none is written by itself, and asking for one is refused."""
    top_k = replace(open_sae(sae), contest=Contest(64, 5))
    monkeypatch.setattr("scopewatch.sae.watched.open_sae", lambda *_, **__: top_k)
    watched = load_watched(sae, FEATURES, packs=packs)

    assert not packs.path.exists()
    with pytest.raises(SaeError, match="compete"):
        write_pack(watched, packs.path / "p.safetensors")


def test_the_origin_is_of_this_start(sae: Path, packs: PackFolder) -> None:
    """Where the files came from is told as it is now, not as it was when the pack was made."""
    load_watched(sae, FEATURES, packs=packs)

    assert {"repo": "r"} == load_watched(FoundSae(sae, origin={"repo": "r"}), FEATURES, packs=packs).origin


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_from_the_hub_must_be_what_the_hub_sent(sae: Path, tmp_path: Path, whole: bool) -> None:
    """The hub's cache names a large file by its SHA-256; one that has another is refused."""
    told = hashlib.sha256(sae.read_bytes()).hexdigest() if whole else "0" * 64
    blob = tmp_path / "blobs" / told
    blob.parent.mkdir()
    sae.rename(blob)
    sae.symlink_to(blob)

    if whole:
        assert told == load_watched(sae, FEATURES).digest
    else:
        with pytest.raises(SaeError, match="not the one the hub gave; delete it"):
            load_watched(sae, FEATURES)
