"""Residual-stream activations of the reader, read as the service reads them.

The reader sees BOS + prompt + blank line + response (plain text, no template; an empty prompt leaves BOS + response).
Activations are the output of `model.layers[L]`; BOS is in the input and never in the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, Gemma2ForCausalLM, Gemma2Model, PreTrainedTokenizerFast

from stream import PackedStream, document_masks


@dataclass(frozen=True)
class Reader:
    """The reader up to and including layer `layer`, in float32; its last hidden state is taken before the final norm."""

    model: Gemma2Model
    tokenizer: PreTrainedTokenizerFast
    layer: int

    @torch.no_grad()
    def residuals(self, ids: Tensor, masks: dict[str, Tensor] | None = None) -> Tensor:
        """Output of the last kept layer, (B, T, d_in), for token ids (B, T)."""
        kept: list[Tensor] = []
        hook = self.model.layers[-1].register_forward_hook(
            lambda _module, _inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            self.model(input_ids=ids, attention_mask=masks, use_cache=False)
        finally:
            hook.remove()
        return kept[0]


def load_reader(folder: Path, layer: int) -> Reader:
    """Read weights and tokenizer from `folder`; later layers and the head are dropped."""
    model = Gemma2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").model
    model.layers = model.layers[: layer + 1]
    model.config.num_hidden_layers = layer + 1
    return Reader(model.eval(), AutoTokenizer.from_pretrained(folder), layer)


def response_ids(reader: Reader, prompt: str, response: str, max_tokens: int) -> tuple[list[int], int]:
    """Token ids, cut to `max_tokens`, and the index of the first response token."""
    head = f"{prompt}\n\n" if prompt else ""
    encoded = reader.tokenizer(head + response, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    first = next((i for i, end in enumerate(ends) if i > 0 and end > len(head)), len(ends))
    ids = encoded["input_ids"]
    if len(ids) > max_tokens and first > max_tokens // 2:
        cut = first - max_tokens // 2
        ids, first = ids[:1] + ids[1 + cut :], first - cut
    return ids[:max_tokens], first


def response_residuals(
    reader: Reader, pairs: Sequence[tuple[str, str]], max_tokens: int = 512, batch_tokens: int = 4096
) -> Iterator[Tensor]:
    """For each (prompt, response), in order: residuals (response tokens, d_in). Batched by length, right-padded."""
    encoded = [response_ids(reader, prompt, response, max_tokens) for prompt, response in pairs]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
    found: dict[int, Tensor] = {}
    batch: list[int] = []
    for position, index in enumerate(order):
        batch.append(index)
        longest = len(encoded[index][0])
        following = len(encoded[order[position + 1]][0]) if position + 1 < len(order) else 10**9
        if max(longest, following) * (len(batch) + 1) <= batch_tokens:
            continue
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, : len(encoded[item][0])] = torch.tensor(encoded[item][0])
        states = reader.residuals(ids)
        for row, item in enumerate(batch):
            found[item] = states[row, encoded[item][1] : len(encoded[item][0])].clone()
        batch = []
    yield from (found[i] for i in range(len(encoded)))


def stream_residuals(reader: Reader, stream: PackedStream, tokens: int) -> Tensor:
    """About `tokens` residuals (N, d_in) of packed windows of 128 tokens, BOS positions left out."""
    parts, count = [], 0
    while count < tokens:
        ids = stream.batch(32, 128)
        states = reader.residuals(ids, document_masks(ids, reader.model.config.sliding_window))
        parts.append(states[ids != 2])
        count += len(parts[-1])
    return torch.cat(parts)
