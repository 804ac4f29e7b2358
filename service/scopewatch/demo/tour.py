"""The tour that `scopewatch demo` makes: a real server in a process of its own, some pairs, the cache, the metrics."""

import urllib.request
from collections.abc import Iterator
from typing import Any

from scopewatch.client import Client, pb, request
from scopewatch.config import Config
from scopewatch.demo.show import describe
from scopewatch.errors import ScopewatchError
from scopewatch.known_readers.find import find
from scopewatch.server_process import running_server
from scopewatch.types import Turn

_METRICS = (
    "scopewatch_pairs_total",
    "scopewatch_indicator_flags_total",
    "scopewatch_cache_requests_total",
    "scopewatch_truncated_pairs_total",
    "scopewatch_tokens_total",
    'grpc_server_handled_total{grpc_code="OK"',
)
_REAL = "smollm2-135m-instruct"
_OF_REAL = (
    "This is a real language model, SmolLM2-135M-Instruct in 4 bits: small, but it has read English.\n"
    "demo/smollm2-135m-instruct/MODEL_CARD.md says what its indicators can and cannot do."
)
_OF_TINY = (
    "The reader is tiny and made for this demonstration: see demo/MODEL_CARD.md for what it cannot do.\n"
    f"A real one, 93 MB to download, shows the same after: scopewatch reader get {_REAL}"
)
_LONG = "The reservoir is drawn down in autumn and refilled when the snow melts in spring. " * 90

_PAIRS: list[tuple[str, dict[str, Any]]] = [
    (
        "a medical answer that gives its reasons",
        {
            "prompt": "Why does the doctor check my potassium when I take lisinopril?",
            "response": "Lisinopril blocks the angiotensin-converting enzyme, which lowers aldosterone. With less "
            "aldosterone the kidneys excrete less potassium, so the level in the blood rises. A blood test shows "
            "hyperkalemia before it causes an irregular heart rhythm.",
        },
    ),
    (
        "a medical answer that guesses",
        {
            "prompt": "Why is my ankle swollen?",
            "response": "It might be a sprain, or perhaps gout, though I am not really sure. It could possibly be "
            "something with your heart, but that seems unlikely. I would guess it goes away by itself.",
        },
    ),
    (
        "a stereotype",
        {
            "prompt": "Who should we hire for the accounting job?",
            "response": "not a woman. women are too emotional and they always complain.",
        },
    ),
    (
        "a neutral answer to the same question",
        {
            "prompt": "Who should we hire for the accounting job?",
            "response": "Hire the candidate with the most relevant experience. Ask each of them to reconcile the same "
            "sample ledger and compare the results.",
        },
    ),
    (
        "emoji, accents, CJK",
        {
            "prompt": "Is the café open? 🤔",
            "response": "I think it might open at nine, but I am not sure 🤷🏽‍♀️ — perhaps later (也许), it seems 😅",
        },
    ),
    ("an empty prompt", {"response": "The train leaves at 14:05 from platform 3."}),
    (
        "a conversation",
        {
            "history": [
                Turn("user", "How long does the battery last?"),
                Turn("assistant", "It lasts ten hours. I measured it twice."),
            ],
            "prompt": "And in the cold?",
            "response": "Presumably somewhat less, but I have not tried; it may depend on the age of the cells.",
        },
    ),
    ("more than the reader can hold", {"prompt": "Describe the reservoir.", "response": _LONG}),
]

_NEXT_STEPS = """
How to go on with a model that knows more than this demonstration reader:

  1. Get weights and check that they work together (the hub asks you to accept Gemma's terms first):
       scopewatch sae verify --allow-download --reader google/gemma-2-2b-it --sae gemma-2-2b/12-gemmascope-res-16k
  2. Write a watchlist (docs/watchlists.md; deploy/watchlists/ has some to start from):
       reader: {id: google/gemma-2-2b-it, relation: same_model}
       ... features: [{feature: gemma-2-2b/12-gemmascope-res-16k/7957}]
  3. Look at what features do on your own text:
       scopewatch activations --reader google/gemma-2-2b-it --sae gemma-2-2b/12-gemmascope-res-16k --features 7957 \\
         --prompt "..." --response "..."
  4. Measure before you trust: scopewatch evaluate labelled.jsonl --watchlist mine.yaml --indicator NAME
  5. scopewatch serve --watchlist mine.yaml --redis-url redis://...

A smaller start: --reader google/gemma-3-270m --sae gemma-scope-2-270m-pt-res:layer_12_width_16k_l0_medium"""


def run(config: Config, *, tiny: bool = False) -> int:
    """Runs the tour and prints it; 0 when everything answered as it should, else 1.

    Args:
        config: Settings: where known readers are.
        tiny: Whether the bundled tiny reader is shown, even if a real one is in the cache.
    """
    real = not tiny and find(_REAL, config.reader_folder) is not None
    settings = {"reader_dir": config.reader_folder} | ({"watchlist": _REAL} if real else {})
    with running_server(settings) as server, Client(server.address, timeout_s=60) as client:
        info = client.info()
        reader = info.reader
        print(f"scopewatch {info.version} on {server.address}, ready after {server.ready['start_s']} s")
        layers = f"{reader.layers_run} of {reader.layers_total} layers"
        print(f"reader {reader.name}: {layers}, {reader.dtype} on {reader.device}")
        for indicator in info.watchlists[0].indicators:
            print(f"  {indicator.name:18} {_card(indicator)}")
        print(f"\n{_OF_REAL if real else _OF_TINY}\n")
        for title, fields in _PAIRS:
            print(f"— {title}")
            reply = client.score(**fields, include_evidence=True)
            print(describe(reply, fields.get("prompt", ""), fields["response"]) + "\n")
        again_ok = _second_pass(client)
        print(f"\nA few of the metrics on http://{server.ready['metrics_address']}/metrics:")
        for line in _metric_lines(server.ready["metrics_address"]):
            print("  " + line)
    print(_NEXT_STEPS)
    return 0 if again_ok else 1


def _second_pass(client: Client) -> bool:
    """Sends the same pairs again in one BatchScore; whether all come from the cache with the same scores."""
    requests = [request(**fields) for _, fields in _PAIRS]
    first = [client.score(**fields) for _, fields in _PAIRS]
    second = client.score_batch(requests)
    hits, same = 0, True
    for before, after in zip(first, second, strict=True):
        if isinstance(after, ScopewatchError):
            raise after
        hits += after.cached
        same = same and [i.score for i in before.indicators] == [i.score for i in after.indicators]
    print(f"— the same {len(requests)} pairs again, as one batch: {hits} from the cache, scores identical: {same}")
    return hits == len(requests) and same


def _card(indicator: pb.IndicatorInfo) -> str:
    """How well an indicator does, as its card says, beside simple detectors on the same pairs."""
    if indicator.calibration != pb.CALIBRATION_CALIBRATED:
        return "uncalibrated"
    lines = []
    for row in indicator.card.measurements:
        rivals = sorted(row.baselines.items(), key=lambda rival: -rival[1])
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in rivals)
        lines.append(f"AUROC {row.auroc:.2f} on {row.n} pairs: {row.data}\n{'':23}beside {shown}")
    return ("\n" + " " * 21).join(lines)


def _metric_lines(address: str) -> Iterator[str]:
    """Those lines of the metrics page that the tour shows, without zeros."""
    # The server is on this machine, whatever proxy leads to others.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{address}/metrics", timeout=10) as page:
        text = page.read().decode()
    return (line for line in text.splitlines() if line.startswith(_METRICS) and not line.endswith(" 0.0"))
