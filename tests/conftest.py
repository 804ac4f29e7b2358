"""A tiny random Gemma 2 reader and SAE in the released file layouts, real servers, real Redis."""

import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Whatever the machine has and whoever runs the tests has set, for this process and those that tests start, and before
# the libraries look. What readers compute is compared with formulas in float32 on a CPU, so a GPU is not used where
# there is one, nor are kernels of the publishers' libraries. Threads of tiny products, where other work has the cores,
# would mostly wait for each other's turn. Servers of tests are on this machine: no proxy leads to them, and the hub that
# they stand in for is in reach. Help is as wide as on a plain terminal.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = ""
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ["COLUMNS"] = "80"

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from prometheus_client import CollectorRegistry
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from scopewatch.config import ENV_PREFIX
from scopewatch.identity import EngineIdentity, FeatureTable, ReaderIdentity, Relation, SaeIdentity
from scopewatch.metrics import Metrics
from scopewatch.sources import ReaderSource
from scopewatch.types import Activations, Coverage, CoveredActivations
from scopewatch.verdicts import IndicatorScore, Judgement, Provenance, ScoredPair, Timings, Verdict
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist
from scopewatch.watch.yaml_lines import Lines
from servers import ServerProcess

# Nor is a setting taken from whoever runs the tests.
for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
    del os.environ[name]

# What tests print is theirs.
transformers_logging.disable_progress_bar()

# No test depends on how busy the machine is.
settings.register_profile("scopewatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("scopewatch")

HIDDEN = 32
LAYERS = 4
D_SAE = 64
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
_TEXTS = [
    "The quick brown fox jumps over the lazy dog. It may rain tomorrow, perhaps.",
    "Insulin lowers blood sugar. The patient might have gout, but we are not sure.",
    "hello world, what is the answer to this question? I do not know the answer.",
]


def gemma_tokenizer(directory: Path, *, chat: bool, byte_level: bool = False) -> None:
    """Saves a tokenizer built as Gemma's (BPE, space to ▁, byte fallback), or a byte-level one."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    if byte_level:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
        tokenizer.train_from_iterator(_TEXTS, trainer)
    else:
        base = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        base.normalizer = normalizers.Replace(" ", "▁")
        byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials + byte_tokens)
        base.train_from_iterator([t.replace(" ", "▁") for t in _TEXTS], trainer)
        state = yaml.safe_load(base.to_str())
        state["added_tokens"] = []
        tokenizer = Tokenizer.from_str(__import__("json").dumps(state))
        tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bos)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )
    if chat:
        fast.chat_template = GEMMA_TEMPLATE
    fast.save_pretrained(directory)


def gemma_config(**changes: object) -> Gemma2Config:
    settings: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 30.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return Gemma2Config(**(settings | changes))


def save_reader(directory: Path, *, chat: bool = True, byte_level: bool = False, **changes: object) -> Path:
    """A random Gemma 2 causal LM with loud attention, so that a lost soft-cap would show."""
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(gemma_config(**changes))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 25
            layer.self_attn.k_proj.weight *= 25
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                norm.weight.normal_(0, 0.3)
    model.save_pretrained(directory)
    gemma_tokenizer(directory, chat=chat, byte_level=byte_level)
    return directory


def sae_arrays(seed: int = 0, d_in: int = HIDDEN, d_sae: int = D_SAE) -> dict[str, np.ndarray]:
    """Random JumpReLU weights of which a good part fires."""
    rng = np.random.default_rng(seed)
    W_dec = rng.normal(size=(d_sae, d_in)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return {
        "W_enc": (W_dec.T + 0.1 * rng.normal(size=(d_in, d_sae))).astype(np.float32),
        "b_enc": rng.normal(scale=0.1, size=d_sae).astype(np.float32),
        "threshold": rng.uniform(0.05, 0.5, size=d_sae).astype(np.float32),
        "W_dec": W_dec,
        "b_dec": rng.normal(scale=0.1, size=d_in).astype(np.float32),
    }


def save_sae(folder: Path, layer: int, seed: int = 0, **changes: np.ndarray) -> Path:
    # The name of a repository says the site; without it every use would have to name the hookpoint.
    file = folder / "gemma-scope-2b-pt-res" / f"layer_{layer}" / "width_64" / "average_l0_20" / "params.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **(sae_arrays(seed) | changes))
    return file


@dataclass(frozen=True)
class House:
    """Files of one small installation."""

    folder: Path
    reader: Path
    saes: dict[str, Path]
    watchlist: Path


def watchlist_document(**changes: object) -> dict[str, object]:
    """Two SAEs, three indicators, every segment; thresholds that some texts pass and some do not."""
    document: dict[str, object] = {
        "version": 1,
        "name": "test",
        "reader": {"path": "reader"},
        "saes": {
            "mid": {"path": "sae/gemma-scope-2b-pt-res/layer_1/width_64/average_l0_20/params.npz"},
            "late": {"path": "sae/gemma-scope-2b-pt-res/layer_2/width_64/average_l0_20/params.npz"},
        },
        "indicators": [
            {
                "name": "alpha",
                "segment": "response",
                "pooling": "max",
                "features": [
                    {"feature": "mid/3", "weight": 1.0, "label": "three"},
                    {"feature": "late/7", "weight": 0.5, "pooling": "mean"},
                    {"feature": "mid/11", "weight": -0.25, "pooling": "fraction_active"},
                ],
                "threshold": 1.0,
                "probability": {"slope": 2.0, "intercept": -1.0},
            },
            {
                "name": "beta",
                "segment": "prompt",
                "severity": "high",
                "features": [{"feature": "late/0", "pooling": {"kind": "rolling_mean_max", "window": 3}}],
                "threshold": 0.3,
            },
            {
                "name": "gamma",
                "segment": "history",
                "features": [{"feature": "mid/3", "pooling": {"kind": "k_of_n", "k": 2, "n": 6}}],
                "threshold": 0.1,
            },
        ],
    }
    return document | changes


def build_house(folder: Path, *, chat: bool = True, byte_level: bool = False, **changes: object) -> House:
    save_reader(folder / "reader", chat=chat, byte_level=byte_level)
    saes = {"mid": save_sae(folder / "sae", 1, seed=1), "late": save_sae(folder / "sae", 2, seed=2)}
    watchlist = folder / "watchlist.yaml"
    watchlist.write_text(yaml.safe_dump(watchlist_document(**changes), sort_keys=False))
    return House(folder, folder / "reader", saes, watchlist)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """An installation with a chat template."""
    return build_house(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="session")
def plain_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """An installation whose tokenizer has no chat template and works on bytes."""
    return build_house(tmp_path_factory.mktemp("plain"), chat=False, byte_level=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A real redis-server on a free port that can be killed and brought back."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self._arguments = arguments
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--save",
            "",
            "--bind",
            "127.0.0.1",
            *self._arguments,
        ]
        # As bytes: in a locale without UTF-8 Python refuses letters that the test asks for.
        encoded = [argument.encode() for argument in command]
        self._process = subprocess.Popen(encoded, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: _accepts(self.port), "redis-server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], object], message: str, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def need(program: str) -> None:
    """Skips a test whose program the machine lacks; CI installs them all and must not skip."""
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is missing on CI")
        pytest.skip(f"{program} is not installed; see `make system-deps`")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    need("redis-server")
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Takes back what the command line does to logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def bundled() -> Iterator[ServerProcess]:
    """A server process over the bundled reader and watchlist."""
    running = ServerProcess()
    yield running
    assert running.stop() == 0


SERVER_LIMITS = (
    *("--max-text-chars", "20000", "--max-message-bytes", "200000", "--max-batch-items", "8"),
    *("--max-labels", "3", "--max-label-chars", "40", "--max-history-turns", "4"),
)


@pytest.fixture(scope="session")
def server(house: House) -> Iterator[ServerProcess]:
    """A server process over the watchlists `test` and `second`, whose limits are small."""
    delta = {
        "name": "delta",
        "features": [{"feature": "late/5"}, {"feature": "mid/3", "pooling": "sum", "weight": -0.5}],
        "threshold": 0.0,
    }
    second = house.folder / "second.yaml"
    second.write_text(yaml.safe_dump(watchlist_document(name="second", indicators=[delta]), sort_keys=False))
    running = ServerProcess("--watchlist", str(house.watchlist), str(second), *SERVER_LIMITS)
    yield running
    assert running.stop() == 0


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """Instruments of one test; read them back with `registry.get_sample_value`."""
    return Metrics(registry)


def activations(n_tokens: int, *fired: tuple[int, int, float]) -> Activations:
    """Activations of one pair, from (token, column, value)."""
    ordered = sorted(fired)
    return Activations(
        n_tokens,
        np.array([token for token, _, _ in ordered], np.int32),
        np.array([column for _, column, _ in ordered], np.int32),
        np.array([value for _, _, value in ordered], np.float32),
    )


def covered(fired: Activations, identity: EngineIdentity) -> CoveredActivations:
    """Activations whose columns are those of an engine."""
    return CoveredActivations(fired, table_of(identity))


@cache
def table_of(identity: EngineIdentity) -> FeatureTable:
    """The features of an engine's columns; the same object every time, as of a running engine."""
    return FeatureTable(identity.feature_ids)


def judgement(
    verdict: Verdict, indicators: tuple[IndicatorScore, ...], coverage: Coverage, watchlist: str = "test"
) -> Judgement:
    """A judgement of a watchlist of this name, on a pair on which nothing fired."""
    made_by = Provenance(watchlist, "0" * 64, Relation.READER_MODEL, "reader", "main", "d" * 64)
    return Judgement(made_by, verdict, indicators, coverage, np.empty(0, np.intp), FeatureTable())


def scored_pair(
    verdict: Verdict, indicators: tuple[IndicatorScore, ...], coverage: Coverage, watchlist: str = "test"
) -> ScoredPair:
    """A pair with such a judgement, which cost no time."""
    return ScoredPair(judgement(verdict, indicators, coverage, watchlist), Timings(), cached=False)


def engine_identity(**watched: tuple[int, ...]) -> EngineIdentity:
    """An engine that nobody runs: SAE names and the features watched of each."""
    reader = ReaderIdentity("reader", "main", "gemma2", "d" * 64, 3, 26, "float32", "cpu", "eager", chat_template=True)
    saes = tuple(
        SaeIdentity(name, "gemma_scope", "jumprelu", f"layers.{layer}.resid_post", 32, 64, f"{layer}" * 64, indices)
        for layer, (name, indices) in enumerate(watched.items())
    )
    return EngineIdentity(reader, saes)


def watchlist_of(*indicators: dict[str, object], name: str = "test") -> Watchlist:
    """A watchlist without a file, reader or SAE, of indicators whose thresholds default to 0.5."""
    complete = [{"name": f"i{number}", "threshold": 0.5} | indicator for number, indicator in enumerate(indicators)]
    return Watchlist(
        name=name,
        reader=ReaderSource(path="reader"),
        saes={},
        indicators=tuple(Indicator.model_validate(indicator) for indicator in complete),
        file=Path(f"{name}.yaml"),
        digest="0" * 64,
        _lines=Lines({(): 1}),
    )
