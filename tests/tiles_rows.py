"""Rows whose attention is known in float64, and what the kernel over tiles makes of them in Triton's interpreter.

Run with `TRITON_INTERPRET=1`, it writes what the kernel gathers for each case into the file it is given.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from scopewatch.reader.packed_tiles import PackedTiles
from scopewatch.reader.packing import Packing, Room
from scopewatch.reader.pages import BLOCK, PagePool
from scopewatch.reader.prefixes import Block, Reading
from scopewatch.reader.tiles import Form
from scopewatch.types import Activations

NOBODY = np.zeros(0, np.int32)
NOTHING = Activations(BLOCK, NOBODY, NOBODY, np.zeros(0, np.float32))
LONGEST = 512
SCALING = 0.3


@dataclass(frozen=True)
class Text:
    """Tokens of a text, which are given by a seed and by the position of its first."""

    seed: int
    own: int
    parent: int | None = None
    """The number of the text in the row that it goes on from."""
    known: int = 0
    """Its leading blocks that lie on pages."""
    poisoned: bool = False
    """Whether its numbers are no numbers."""


LENGTHS = (1, 63, 64, 65, 129, 300)
ROW = tuple(Text(seed, length) for seed, length in enumerate(LENGTHS))
TREE = (
    Text(1, 128),
    Text(2, 5, parent=0),
    Text(3, 64, parent=0),
    Text(4, 70, parent=2),
    Text(5, 65, known=2),
    Text(6, 1, known=1),
)


@dataclass(frozen=True)
class Case:
    """A row, and how its layers attend."""

    row: Sequence[Text] = ROW
    dtype: torch.dtype = torch.float32
    window: int | None = None
    softcap: float | None = None
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 24
    form: Form = field(default=Form(heads=2, queries=64, warps=4, stages=1))
    room: Room | None = None

    def numbers(self, text: Text) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of all positions, each of shape (512, heads or kv_heads, head_dim)."""
        dice = torch.Generator().manual_seed(text.seed)
        query, key, value = (
            torch.randn(LONGEST, heads, self.head_dim, generator=dice).to(self.dtype)
            * (float("nan") if text.poisoned else 1)
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )
        return query, key, value

    def packing(self) -> Packing:
        """The row, with the pages that its texts know, between pages of no numbers."""
        shape = {"kv_heads": self.kv_heads, "head_dim": self.head_dim, "dtype": self.dtype}
        pages = 2 + 2 * sum(text.known for text in self.row)
        pool = PagePool(1 << 30, layers=1, device=torch.device("cpu"), **shape)
        pool.keys, pool.values = (
            [torch.full((pages, BLOCK, self.kv_heads, self.head_dim), torch.nan).to(self.dtype)] for _ in range(2)
        )
        readings: list[Reading] = []
        page = 0
        for number, text in enumerate(self.row):
            before = readings[text.parent] if text.parent is not None else None
            known = []
            for block in range(text.known):
                page += 2
                _, key, value = self.numbers(text)
                pool.keys[0][page], pool.values[0][page] = (
                    numbers[BLOCK * block : BLOCK * (block + 1)] for numbers in (key, value)
                )
                known.append(Block(page, NOTHING))
            length = (len(before.ids) if before else BLOCK * text.known) + text.own
            shared = any(other.parent == number for other in self.row)
            ids = np.zeros(length, np.int32)
            readings.append(Reading(ids, (), known=known, parent=before, shared=shared))
        return Packing(readings, multiple=PackedTiles.multiple, pool=pool if page else None)

    def tensors(self, packing: Packing) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of the row, (1, heads, tokens, head_dim), as views of one product."""
        heads = self.heads + 2 * self.kv_heads
        joined = torch.zeros(1, len(packing.ids), heads, self.head_dim, dtype=self.dtype)
        for text, placed in zip(self.row, packing.texts, strict=True):
            here = slice(placed.first, placed.first + text.own)
            joined[0, placed.place] = torch.cat([numbers[here] for numbers in self.numbers(text)], dim=1)
        query, key, value = joined.transpose(1, 2).split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return query, key, value


CASES = {
    "plain": Case(),
    "window and cap, seven heads a group": Case(heads=7, window=16, softcap=3.0, head_dim=16),
    "window, one head a group": Case(heads=2, kv_heads=2, window=100, head_dim=40),
    "tree": Case(row=TREE),
    "tree, window, cap": Case(row=TREE, window=100, softcap=3.0, kv_heads=2),
    "tree, tiles of 128": Case(row=TREE, form=Form(heads=1, queries=128, warps=8, stages=2)),
    "bfloat16": Case(dtype=torch.bfloat16),
    "bfloat16, tree, window, cap": Case(row=TREE, dtype=torch.bfloat16, window=100, softcap=3.0),
}

SUBJECT, TAIL = 9, 65
"""The seed of a text of 193 tokens that is placed in many ways, and its last tokens, which are read in all of them."""
OTHER = Text(7, 33, poisoned=True)
PLACES = {
    "alone": (Text(SUBJECT, 193),),
    "in company": (OTHER, Text(SUBJECT, 193), OTHER, Text(8, 70, poisoned=True)),
    "behind a beginning in the row": (Text(SUBJECT, 128), OTHER, Text(SUBJECT, TAIL, parent=0)),
    "behind two": (OTHER, Text(SUBJECT, 64), Text(SUBJECT, 64, parent=1), Text(SUBJECT, TAIL, parent=2), OTHER),
    "behind pages": (OTHER, Text(SUBJECT, TAIL, known=2), OTHER),
}
KINDS = {
    f"{str(dtype).removeprefix('torch.')} {name}": Case(dtype=dtype, window=window, softcap=softcap, head_dim=16)
    for dtype in (torch.float32, torch.bfloat16)
    for name, window, softcap in (("plain", None, None), ("window and cap", 100, 3.0))
}
LARGE = Form(heads=1, queries=128, warps=8, stages=2)


def placed(kind: str) -> dict[str, Case]:
    """The subject placed in every way, and in other forms."""
    base = vars(KINDS[kind])
    ways = {place: Case(**base | {"row": row}) for place, row in PLACES.items()}
    ways["in larger tiles"] = Case(**base | {"row": PLACES["in company"], "form": LARGE})
    ways["with room to spare"] = Case(**base | {"row": PLACES["behind pages"], "room": Room(20, 30)})
    return ways


def gathered(case: Case) -> torch.Tensor:
    """What the kernel gathers, (tokens, heads, head_dim), in memory that held no numbers."""
    from scopewatch.reader.kernels.tiles import launch

    packing = case.packing()
    plan = PackedTiles(case.form, otherwise=None).plan(packing, case.room)
    queries, keys = (torch.from_numpy(plan[name]) for name in ("tile_queries", "tile_keys"))
    pages = (packing.pool.keys[0], packing.pool.values[0]) if packing.pool else (None, None)
    query, key, value = case.tensors(packing)
    out = torch.full((1, query.shape[2], case.heads, case.head_dim), torch.nan, dtype=case.dtype)
    launch(
        out, query, key, value, *pages, queries, keys, SCALING, case.window or 0, case.softcap or 0.0, list(case.form)
    )
    return out[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: gathered(case) for name, case in CASES.items()}
    found |= {f"{kind}: {place}": gathered(case) for kind in KINDS for place, case in placed(kind).items()}
    torch.save(found, Path(sys.argv[1]))
