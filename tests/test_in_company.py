"""On a CPU a pair's numbers are the same, to the last bit, alone, in any batch and after reuse."""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from families import FAMILIES, HIDDEN, save_weights
from scopewatch.engine.columns import Columns
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.engine.same_numbers import as_settled, confirmed
from scopewatch.engine.watching import Watching
from scopewatch.identity import EngineIdentity, FeatureTable
from scopewatch.reader.head import Head
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.linear import packed_linear
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.packing import Packing
from scopewatch.reader.prefixes import Reading
from scopewatch.reader.products import RowCounts
from scopewatch.sae.encoder import Contest, Encoder
from scopewatch.types import Activations, Int32

SHARED = 150
"""Tokens with which some of the texts begin: two blocks are reused."""
LENGTHS = (1, 2, 3, 30, 64, 65, 97, 200)


def a_reader(directory: Path) -> Reader:
    return load_reader(directory, name="r", revision="", deepest_layer=2, device="cpu", dtype="float32")


def a_runner(reader: Reader, *, prefix_bytes: int = 0, row_tokens: int = 2048) -> Runner:
    """Of one feature at one layer and of many at another; about half of them fire."""
    rng = np.random.default_rng(0)
    placed = []
    for place, width in ((Hookpoint(1), 1), (Hookpoint(2, "mlp_out"), 24)):
        nothing = np.zeros(width, np.float32)
        W_enc = rng.normal(size=(HIDDEN, width)).astype(np.float32)
        placed.append(PlacedEncoder(place, Encoder("none", W_enc, nothing, nothing, np.arange(width))))
    return Runner(reader, placed, row_tokens=row_tokens, prefix_bytes=prefix_bytes)


def texts() -> list[Int32]:
    """Some that share nothing, and some that begin alike."""
    rng = np.random.default_rng(1)
    beginning = rng.integers(10, 400, SHARED)
    own = [rng.integers(10, 400, length) for length in LENGTHS]
    return [ids.astype(np.int32) for ids in [*own, *(np.concatenate([beginning, ids]) for ids in own)]]


def numbers(found: Activations | Exception) -> tuple[bytes, ...]:
    assert isinstance(found, Activations), found
    return found.token.tobytes(), found.column.tobytes(), found.value.tobytes()


def differences(directory: Path) -> list[str]:
    """In which batches a text got other numbers than alone."""
    reader, batch = a_reader(directory), texts()
    alone = [numbers(a_runner(reader)([ids]).activations[0]) for ids in batch]
    rng = np.random.default_rng(2)
    found = []
    for name, runner in {
        "one row": a_runner(reader),
        "short rows": a_runner(reader, row_tokens=256),
        "reuse": a_runner(reader, prefix_bytes=1 << 26),
    }.items():
        for again in range(3):
            order = rng.permutation(len(batch))[: len(batch) - 4 * again]
            made = runner([batch[place] for place in order]).activations
            found += [
                f"{name}, time {again}: {len(batch[place])} tokens"
                for place, one in zip(order, made, strict=True)
                if numbers(one) != alone[place]
            ]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_is_the_same_in_any_company(family: str, tmp_path: Path) -> None:
    """In every reader family, whatever the batch is, however it is parted into rows, and what is known of the text."""
    assert differences(save_weights(family, tmp_path)) == []


def test_so_it_is_on_a_cpu_of_another_kind(tmp_path: Path) -> None:
    """With AVX2 alone, where other kernels multiply."""
    save_weights("gemma2", tmp_path)
    program = f"import test_in_company as t; from pathlib import Path; print(t.differences(Path({str(tmp_path)!r})))"
    only = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    env = os.environ | only | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize(("d_in", "width"), [(64, 1), (640, 1), (640, 40), (1152, 7), (2304, 2)])
def test_columns_and_layers_do_not_know_how_many_rows_there_are(d_in: int, width: int) -> None:
    """Encoder columns give a row the same numbers in any company; packed layers do in company."""
    made = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=made) for shape in ((width, d_in), (width,), (150, d_in)))
    columns, packed = Columns(weight.T.contiguous(), bias), packed_linear(weight, bias)
    assert packed is not None
    parts = [(first, first + rows) for rows in (1, 2, 3, 7, 16, 17, 64, 100) for first in (0, 13, 150 - rows)]
    with torch.inference_mode():
        whole, packed_whole = columns(x), packed(x)
        torch.testing.assert_close(whole, (x.double() @ weight.double().T + bias).float(), rtol=0, atol=1e-3)
        for first, last in parts:
            assert torch.equal(columns(x[first:last]), whole[first:last])
            assert last - first == 1 or torch.equal(packed(x[first:last]), packed_whole[first:last])


def test_the_head_does_not_know_how_many_tokens_there_are() -> None:
    """What the head says of a token does not depend on the tokens beside it."""
    made = torch.Generator().manual_seed(0)
    head = Head(torch.randn(1500, 96, generator=made), 30.0)
    states, ids = torch.randn(150, 96, generator=made), torch.arange(150)
    whole = head(states, ids)

    for first, last in [(0, 1), (149, 150), (3, 20), (5, 69), (60, 125), (1, 150)]:
        assert torch.equal(head(states[first:last], ids[first:last]), whole[first:last])
    assert head(states[:0], ids[:0]).shape == (0, 2)


def test_it_is_confirmed_at_the_start(tmp_path: Path) -> None:
    """A reader is called invariant only as long as it shows to be: one whose numbers vary with the row is not."""
    reader = a_reader(save_weights("qwen3", tmp_path))
    assert confirmed(reader).identity.batch_invariant

    def louder(_module: object, _arguments: object, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + 1e-7 * output.shape[1])

    reader.model.get_submodule("layers.0.mlp").register_forward_hook(louder)

    assert not confirmed(reader).identity.batch_invariant


@dataclass
class Asked:
    """Row counts that are found for nothing wider than `most` outputs."""

    most: int

    def settle(self, weights: Iterable[tuple[torch.Tensor, torch.Tensor | None]]) -> bool:
        return all(len(weight) <= self.most for weight, _ in weights)


@pytest.mark.parametrize(
    ("contest", "row_counts", "alike"),
    [(None, None, True), (Contest(24, 3), None, False), (None, Asked(24), True), (None, Asked(23), False)],
)
def test_what_is_watched_counts_too(
    tmp_path: Path, contest: Contest | None, row_counts: Asked | None, alike: bool
) -> None:
    """Replies say so where an encoder's numbers depend on the batch: a contest on a CPU, products of a GPU."""
    reader = a_reader(save_weights("llama", tmp_path))
    nothing = np.zeros(24, np.float32)
    encoder = Encoder("none", np.ones((HIDDEN, 24), np.float32), nothing, nothing, np.arange(24), contest)
    told = Watching(EngineIdentity(reader.identity, ()), FeatureTable(), (PlacedEncoder(Hookpoint(1), encoder),), ())
    settled = as_settled(told, replace(reader, row_counts=cast("RowCounts", row_counts)))

    assert settled.identity.reader.batch_invariant is alike
    assert settled.identity.reader.decides == reader.identity.decides


def test_no_row_is_multiplied_alone() -> None:
    """A text of one token stands in a row of two: a product of a lone row would add up in another order."""
    for tokens, filled in ((1, 2), (2, 2), (3, 3)):
        assert len(Packing([Reading(np.arange(tokens, dtype=np.int32), ())]).ids) == filled
