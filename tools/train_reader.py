"""Train the bundled reader: a byte-level BPE tokenizer and a small Gemma-2 language model, from scratch, on a CPU.

    python tools/train_reader.py --corpus ../shared/corpus --data ../shared/data --out build/reader --minutes 55

The wall-time budget is turned into a fixed number of steps after a short timing run and written to
`training.json`; `--steps N` with that number repeats the same schedule on the same documents.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from muon import Muon
from stream import Mix, PackedStream, build_mix, document_masks, held_out_windows
from tokenizer import load_tokenizer, train_tokenizer

NOTE_LOSS_WEIGHT = 3.0
#: Phases of training: (share of the tokens, context in tokens, windows per step).
PHASES = ((0.82, 128, 32), (0.18, 384, 11))


def reader_config(vocab_size: int, width: int, layers: int, feed_forward: int) -> Gemma2Config:
    """Gemma-2's real settings (soft-capping, alternating sliding window, tied embeddings, GQA), scaled down."""
    return Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        query_pre_attn_scalar=width // 4,
        max_position_embeddings=1024,
        sliding_window=256,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="eager",
    )


def next_token_loss(model: nn.Module, batch: Tensor, masks: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy in nats; `batch` (B, T+1) token ids, `weights` (vocab,); a BOS is never a target."""
    logits = model(input_ids=batch[:, :-1], attention_mask=masks, use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), weight=weights)


def make_optimizers(model: nn.Module, lr_muon: float, lr_adam: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and gains."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices, lr=lr_muon)
    adam = torch.optim.AdamW(others, lr=lr_adam, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def schedule(step: int, steps: int, warmup: int = 60, decay_share: float = 0.3) -> float:
    """Warm-up, plateau, then linear decay to 2 % over the last `decay_share` of the steps."""
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / (decay_share * steps)
    return max(0.02, min(1.0, left))


@torch.no_grad()
def evaluate(
    model: nn.Module, windows: dict[str, list[Tensor]], bytes_of: dict[str, int]
) -> dict[str, dict[str, float]]:
    """Held-out nats per token and bits per UTF-8 byte, by kind of text; one document a window, BOS first."""
    model.eval()
    results = {}
    for kind, documents in windows.items():
        nats = tokens = 0.0
        for ids in documents:
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0]
            nats += float(nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
            tokens += len(ids) - 1
        results[kind] = {
            "nats_per_token": nats / tokens,
            "bits_per_byte": nats / math.log(2) / bytes_of[kind],
            "tokens": tokens,
        }
    model.train()
    return results


def shape_at(step: int, steps: int) -> tuple[int, int]:
    """(windows, context in tokens) of this step, by the share of the steps that are done (PHASES)."""
    passed = 0.0
    for share, context, rows in PHASES:
        passed += share
        if step < round(passed * steps):
            return rows, context
    return PHASES[-1][2], PHASES[-1][1]


def seconds_by_phase(run: Run, stream: PackedStream) -> list[float]:
    """Median seconds of a step of each phase, compilation not counted; leaves the weights as they are."""
    seconds = []
    for _, context, rows in PHASES:
        times = []
        for _ in range(9):
            start = time.perf_counter()
            run.loss(stream.batch(rows, context + 1)).backward()
            run.model.zero_grad(set_to_none=False)
            times.append(time.perf_counter() - start)
        seconds.append(sorted(times)[4] + 0.15)
    return seconds


@dataclass
class Budget:
    """Turns wall time into a number of steps; corrected while the schedule is still on its plateau, then fixed.

    Up to `freeze` of the steps nothing depends on their total, so the run equals one started with the final number.
    """

    steps: int
    seconds_left: float
    step_seconds: list[float]
    freeze: float = 0.6

    def steps_in(self, seconds: float, slowdown: float = 1.0) -> int:
        """Steps of the whole schedule that fit into `seconds`."""
        return int(seconds / (slowdown * sum(s * phase[0] for s, phase in zip(self.step_seconds, PHASES, strict=True))))

    def correct(self, step: int, elapsed: float) -> None:
        """Re-estimate from the speed seen so far, while the total can still change."""
        if not self.freeze:
            return
        slowdown = elapsed / max(step, 1) / self.step_seconds[0]
        steps = self.steps_in(self.seconds_left, slowdown)
        if step < self.freeze * min(steps, self.steps):
            self.steps = steps


def save(model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights rounded to bfloat16 (stored so), configuration and tokenizer."""
    copy = Gemma2ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict({k: v.to(torch.bfloat16) for k, v in model.state_dict().items()})
    copy.tie_weights()
    copy.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


@dataclass
class Run:
    """The parts of a run: the model and its compiled twin, the data, loss weights (vocab,), and what is recorded."""

    args: argparse.Namespace
    mix: Mix
    tokenizer: PreTrainedTokenizerFast
    model: Gemma2ForCausalLM
    compiled: nn.Module
    weights: Tensor
    record: dict[str, Any]

    @property
    def window(self) -> int:
        """Sliding window in tokens."""
        return int(self.model.config.sliding_window)

    def loss(self, batch: Tensor) -> Tensor:
        """Weighted loss of a batch (B, T+1), through the compiled model."""
        return next_token_loss(self.compiled, batch, document_masks(batch[:, :-1], self.window), self.weights)


def prepare(args: argparse.Namespace) -> Run:
    """Read the texts, train or load the tokenizer, and make a fresh model."""
    mix = build_mix(args.corpus, args.data, args.hedging, args.seed)
    if not (args.out / "tokenizer.json").exists():
        train_tokenizer(mix.tokenizer_text(), args.vocab).save_pretrained(args.out)
    tokenizer = load_tokenizer(args.out)
    model = Gemma2ForCausalLM(reader_config(len(tokenizer), args.width, args.layers, args.feed_forward))
    weights = torch.ones(len(tokenizer))
    weights[tokenizer.convert_tokens_to_ids(list(mix.notes))] = NOTE_LOSS_WEIGHT
    weights[[0, 2]] = 0.0
    record = {
        "seed": args.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab": len(tokenizer),
        "phases": PHASES,
        "mix": mix.shares,
        "documents": mix.counts(),
        "curve": [],
    }
    compiled = torch.compile(model, dynamic=False) if args.compile else model
    return Run(args, mix, tokenizer, model, compiled, weights, record)


def train(args: argparse.Namespace) -> None:
    """The whole run; leaves the reader, its tokenizer and `training.json` in `args.out`."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    run = prepare(args)
    budget = Budget(args.steps, 0.0, [], 0.0)
    if not args.steps:
        seconds = seconds_by_phase(run, PackedStream(run.mix, run.tokenizer, args.seed + 1))
        budget = Budget(0, args.minutes * 60, seconds)
        budget.steps = budget.steps_in(args.minutes * 60)
        print(f"seconds a step {seconds}", flush=True)
    print(json.dumps(run.record | {"steps": budget.steps}), flush=True)
    stream = PackedStream(run.mix, run.tokenizer, args.seed)
    began = time.time()
    run_steps(run, stream, budget)
    run.record |= {
        "steps": budget.steps,
        "tokens": stream.tokens,
        "tokens_by_kind": stream.spent,
        "wall_s": round(time.time() - began),
    }
    finished = Gemma2ForCausalLM.from_pretrained(args.out, dtype=torch.float32, attn_implementation="eager")
    run.record["held_out"] = evaluate(finished, *held_out_windows(run.mix, run.tokenizer, 160))
    (args.out / "training.json").write_text(json.dumps(run.record, indent=1) + "\n")
    print(json.dumps(run.record["held_out"], indent=1), flush=True)


def run_steps(run: Run, stream: PackedStream, budget: Budget) -> None:
    """Optimise for `budget.steps` steps; a checkpoint every `save_every_s` seconds and at the end."""
    optimizers = make_optimizers(run.model, run.args.lr_muon, run.args.lr_adam)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    began = saved = time.time()
    smooth, step = 0.0, 0
    bar = tqdm(total=budget.steps, mininterval=20)
    while step < budget.steps:
        rows, context = shape_at(step, budget.steps)
        loss = run.loss(stream.batch(rows, context + 1))
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        scale = schedule(step, budget.steps)
        for optimizer, rates in zip(optimizers, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            elapsed = round(time.time() - began)
            run.record["curve"].append({"step": step, "loss": round(smooth, 4), "seconds": elapsed})
            print(f"step {step}/{budget.steps} loss {smooth:.3f} {elapsed} s", flush=True)
        step += 1
        bar.update()
        if time.time() - saved > run.args.save_every_s:
            save(run.model, run.tokenizer, run.args.out)
            saved = time.time()
            budget.correct(step, saved - began)
            bar.total = budget.steps
    save(run.model, run.tokenizer, run.args.out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hedging", type=Path, default=Path(__file__).parent / "hedging")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=55.0, help="wall-time budget; ignored with --steps")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=576)
    parser.add_argument("--lr-muon", type=float, default=6e-3)
    parser.add_argument("--lr-adam", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every-s", type=float, default=300.0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    train(arguments())
