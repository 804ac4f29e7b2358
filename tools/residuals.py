"""The residual stream of a real reader at some layers, on texts read as the service reads them.

    python tools/residuals.py --reader DIR --corpus ../shared/corpus --data ../shared/data --layers 15,18 \
        --tokens 3000000 --part 0/2 --out tools/build/residuals

Writes `LAYER.PART.CHUNK.npy`, float16, shape (N, d_in): tokens of the template and the first token are left out, as no score
counts them. Parts read different documents, and may run side by side, one a core. A part that was stopped goes on after the
chunks that are there.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from corpus import Document
from real_text import documents, in_shares
from scopewatch.files import atomic_write
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair, Segment, TokenisedPair

_POOL = 1024
"""Documents that are sorted by length before they are batched."""


@dataclass(frozen=True)
class Batch:
    """Pairs of about one length, padded at the right; all of shape (n_pairs, longest)."""

    ids: Tensor
    there: Tensor
    """1 where a token is, 0 in the padding."""
    counts: Tensor
    """Whether the token belongs to a text of the pair."""


class RealReader:
    """A causal language model of any family that transformers reads, and scopewatch's tokeniser of it."""

    def __init__(self, folder: Path, device: str, max_tokens: int) -> None:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        self.model: PreTrainedModel = loaded.to(device).eval()
        self.device = device
        self.tokeniser = Tokeniser(folder, max_tokens=max_tokens)

    def batches(self, texts: Iterable[Document], batch_tokens: int) -> Iterator[Batch]:
        """The documents' tokens, documents of one length together; what cannot be read is left out."""
        texts = iter(texts)
        while pool := list(islice(texts, _POOL)):
            pairs = self.tokeniser.tokenise([Pair(prompt=each.prompt, response=each.response) for each in pool])
            read = sorted((one for one in pairs if isinstance(one, TokenisedPair)), key=lambda one: len(one.ids))
            batches, start = [], 0
            for end in range(1, len(read) + 1):
                if end == len(read) or len(read[end].ids) * (end + 1 - start) > batch_tokens:
                    batches.append(self.padded(read[start:end]))
                    start = end
            yield from (batches[i] for i in np.random.default_rng(0).permutation(len(batches)))

    def padded(self, pairs: list[TokenisedPair]) -> Batch:
        """Some pairs of about one length as one batch."""
        shape = len(pairs), max(len(pair.ids) for pair in pairs)
        ids, there, counts = (np.zeros(shape, kind) for kind in (np.int64, np.int64, np.bool_))
        for row, pair in enumerate(pairs):
            inside = slice(len(pair.ids))
            ids[row, inside], there[row, inside], counts[row, inside] = pair.ids, 1, pair.segments != Segment.TEMPLATE
        return Batch(*(torch.from_numpy(each).to(self.device) for each in (ids, there, counts)))

    @torch.inference_mode()
    def residuals(self, batch: Batch, layers: tuple[int, ...]) -> dict[int, Tensor]:
        """The output of each of some layers on the tokens that count, (N, d_in), without reading further than these."""
        kept: dict[int, Tensor] = {}
        blocks = self.model.model.layers

        hooks = [
            blocks[layer].register_forward_hook(
                lambda _block, _inputs, out, layer=layer: kept.__setitem__(layer, _first(out))
            )
            for layer in layers
        ]
        whole = self.model.model.layers
        self.model.model.layers = whole[: max(layers) + 1]
        try:
            self.model.model(input_ids=batch.ids, attention_mask=batch.there, use_cache=False)
        finally:
            self.model.model.layers = whole
            for hook in hooks:
                hook.remove()
        return {layer: kept[layer][batch.counts] for layer in layers}


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def collect(
    reader: RealReader,
    texts: Iterable[Document],
    layers: tuple[int, ...],
    batch_tokens: int,
    chunk: int,
    *,
    skip: int = 0,
) -> Iterator[dict[int, Tensor]]:
    """Residuals of each layer in chunks of about `chunk` tokens, float16 on the reader's device, shape (N, d_in).

    Tokens with more than ten times the usual norm are left out: attention rests on these, and they say nothing.
    The first `skip` chunks are passed over without being read.
    """
    parts: dict[int, list[Tensor]] = defaultdict(list)
    count = passed = 0
    for batch in reader.batches(texts, batch_tokens):
        if passed >= skip:
            for layer, found in reader.residuals(batch, layers).items():
                norm = found.float().norm(dim=1)
                parts[layer].append(found[norm < 10 * norm.median()].half())
        count += int(batch.counts.sum())
        if count >= chunk:
            if parts:
                yield {layer: torch.cat(found) for layer, found in parts.items()}
            parts, count, passed = defaultdict(list), 0, passed + 1
    if parts:
        yield {layer: torch.cat(found) for layer, found in parts.items()}


def main() -> None:
    """One part of the residuals, a file a chunk and layer, so that what is there can be used at any time."""
    args = arguments()
    torch.set_num_threads(args.threads)
    part, parts = map(int, args.part.split("/"))
    kinds, _ = documents(args.corpus, args.data, args.hedging)
    mine = {kind: [one for place, one in enumerate(texts) if place % parts == part] for kind, texts in kinds.items()}
    reader = RealReader(args.reader, "cpu", args.max_tokens)
    layers = tuple(map(int, args.layers.split(",")))
    args.out.mkdir(parents=True, exist_ok=True)
    there = sorted(args.out.glob(f"{layers[-1]}.{part}.*.npy"))
    count = sum(len(np.load(file, mmap_mode="r")) for file in there)
    began, before = time.time(), count
    texts = in_shares(mine, args.seed + part)
    chunks = collect(reader, texts, layers, args.batch_tokens, args.chunk, skip=len(there))
    for number, found in enumerate(chunks, start=len(there)):
        for layer, x in found.items():
            # Whole or not at all: what is there when a part was stopped is not read again.
            with (
                atomic_write(args.out / f"{layer}.{part}.{number:03}.npy") as unfinished,
                unfinished.open("wb") as file,
            ):
                np.save(file, x.numpy())
        count += len(found[layers[-1]])
        print(f"{count} tokens, {(count - before) / (time.time() - began):.0f} a second", flush=True)
        if count * parts >= args.tokens:
            break


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hedging", type=Path, default=Path(__file__).parent / "hedging")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", default="15,18")
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--chunk", type=int, default=50_000, help="tokens a file")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
