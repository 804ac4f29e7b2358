"""Which attention a GPU runs: right ones only, the fastest of them, told once."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface

from families import FAMILIES, save_weights
from scopewatch.errors import ConfigError
from scopewatch.reader import loading
from scopewatch.reader.attention import Packed, register_attention
from scopewatch.reader.attention_choice import Candidate, candidates, choose, forms
from scopewatch.reader.attention_trials import AttentionShapes, Trials
from scopewatch.reader.flex import PackedFlex
from scopewatch.reader.packed_tiles import PackedTiles
from scopewatch.reader.packing import AttentionKind
from scopewatch.reader.tiles import Form
from test_prefixes import a_reader

CPU = torch.device("cpu")
SHAPES = AttentionShapes(4, 2, 16, 0.25, 3.0, {None: 3, 100: 2}, torch.float32)
FORM = Form(heads=2, queries=64, warps=4, stages=1)


class Kind(Packed):
    """An attention of some name."""

    def __init__(self, name: str, *, invariant: bool = True) -> None:
        self.name, self.invariant = name, invariant


@dataclass
class Told:
    """What a judge finds of each attention, by its title."""

    seconds: dict[str, float]
    deviation: dict[str, float] = field(default_factory=dict)
    bits: dict[str, float] = field(default_factory=dict)
    fails: dict[str, Exception] = field(default_factory=dict)
    takes_s: float = 0.0
    now: float = 0.0
    asked: list[str] = field(default_factory=list)

    def candidates(self) -> list[Candidate]:
        """Titles are a kind's name and more; a kind named packed_flex is a rival."""
        return [
            Candidate(title, lambda title=title: self._kind(title), rival=title.startswith("packed_flex"))
            for title in self.seconds
        ]

    def _kind(self, title: str) -> AttentionKind:
        kind: Any = Kind(title.partition(" ")[0], invariant="flex" not in title)
        kind.title = title
        return kind

    def gathered(self, kind: Any) -> list[torch.Tensor]:
        self.asked.append(kind.title)
        self.now += self.takes_s
        if kind.title in self.fails:
            raise self.fails[kind.title]
        self._last = kind.title
        return [torch.tensor(self.bits.get(kind.title, 0.0))]

    def deviation_of(self) -> float:
        return self.deviation.get(self._last, 0.0)

    def chosen(self) -> str:
        judge = type("Judge", (), {})()
        judge.gathered, judge.deviation = self.gathered, lambda _: self.deviation_of()
        judge.seconds = lambda kind: self.seconds[kind.title]
        kind: Any = choose(self.candidates(), judge, Packed(), torch.bfloat16, clock=lambda: self.now)
        return getattr(kind, "title", kind.name)


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "scopewatch.reader.attention_choice")


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({"packed_tiles a": 3.0, "packed_tiles b": 2.0, "packed_flex": 2.5}, "packed_tiles b"),
        ({"packed_tiles a": 3.0, "packed_flex": 2.9}, "packed_tiles a"),
        ({"packed_tiles a": 3.0, "packed_flex": 2.0}, "packed_flex"),
        ({"packed_tiles a": 3.0, "packed_tiles b": 3.0}, "packed_tiles a"),
    ],
)
def test_the_fastest_wins_and_a_rival_only_clearly(
    seconds: dict[str, float], best: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One that depends on its company must be faster by a tenth; the winner and all figures are told once."""
    assert best == Told(seconds).chosen()
    [message] = [record.message for record in caplog.records]
    assert message.startswith(f"attention {best} is chosen")
    assert all(f"{title} {1e3 * time:.2f} ms" in message for title, time in seconds.items())


def test_what_does_not_compile_or_gives_other_numbers_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """With one warning each that names it and says why, on one line; the others are still tried."""
    told = Told(
        dict.fromkeys(["packed_tiles a", "packed_tiles b", "packed_tiles c", "packed_tiles d"], 1.0)
        | {"packed_flex": 9.0},
        deviation={"packed_tiles b": 0.3, "packed_tiles c": float("inf"), "packed_tiles d": float("nan")},
        fails={"packed_tiles a": RuntimeError("out of resource: shared memory\nRequired: 300000")},
    )

    assert told.chosen() == "packed_flex"
    assert warned(caplog) == [
        "attention packed_tiles a is left out: out of resource: shared memory",
        "attention packed_tiles b is left out: it differs from plain attention by 0.3 of the largest number",
        "attention packed_tiles c is left out: it differs from plain attention by inf of the largest number",
        "attention packed_tiles d is left out: it differs from plain attention by nan of the largest number",
    ]


def test_one_kind_gives_the_same_bits_whatever_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    """Of an invariant kind, a form that differs in a bit from the first is left out, however fast; of others none is."""
    told = Told(
        {"packed_tiles a": 3.0, "packed_tiles b": 1.0, "packed_flex": 9.0, "packed_flex tuned": 2.0},
        bits={"packed_tiles b": 1e-9, "packed_flex tuned": 1e-9},
    )

    assert told.chosen() == "packed_flex tuned"
    assert warned(caplog) == ["attention packed_tiles b is left out: it gives other bits than packed_tiles a"]


def test_where_none_is_right_the_plain_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Slowly, and it is said so."""
    assert Told({"packed_tiles": 1.0}, deviation={"packed_tiles": 1.0}).chosen() == "packed"
    assert warned(caplog)[-1] == "no attention for GPUs is right here; packed runs, text by text and slowly"


def test_trying_is_bounded_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """Once twenty seconds are gone and one is right, no other is tried; without a right one it goes on."""
    titles = ["packed_tiles a", "packed_tiles b", "packed_tiles c", "packed_flex"]
    told = Told(dict.fromkeys(titles, 1.0), takes_s=15.0)
    assert told.chosen() == "packed_tiles a"
    assert told.asked == titles[:2]
    assert sum("is not tried" in record.message for record in caplog.records) == 2

    none = Told(dict.fromkeys(titles, 1.0), takes_s=15.0, deviation=dict.fromkeys(titles[:3], 1.0))
    assert none.chosen() == "packed_flex"


class Without(Packed):
    """Attention that forgets something."""

    def __init__(self, **forgotten: object) -> None:
        self._forgotten = forgotten

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return super().__call__(*arguments, **named | self._forgotten)


class BeforeItself(Packed):
    """Attention over the keys of the token before."""

    def __call__(self, module: Any, query: Any, key: Any, value: Any, mask: None, **named: Any) -> Any:
        return super().__call__(module, query, key.roll(1, 2), value, mask, **named)


class NoPages(Packed):
    """Attention that keeps nothing on its pages."""

    def __call__(self, *arguments: Any, packing: Any, **named: Any) -> Any:
        packing.keep = lambda *_: None
        return super().__call__(*arguments, packing=packing, **named)


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials(SHAPES, CPU, reference=Packed(), row=200, long=100)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("kind", "right"),
    [
        (Packed(), True),
        (PackedTiles(FORM, otherwise=Packed()), True),
        (PackedFlex(flex_attention, otherwise=Packed()), True),
        (Without(sliding_window=None), False),
        (Without(softcap=None), False),
        (Without(scaling=0.26), False),
        (BeforeItself(), False),
        (NoPages(), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else type(value).__name__,
)
def test_trials_tell_right_attention_from_wrong(kind: AttentionKind, right: bool, trials: Trials) -> None:
    """All three kinds are right, on windows, caps, beginnings in the row and on pages; what forgets one of them is not."""
    assert (trials.deviation(trials.gathered(kind)) <= 2e-5) == right


def test_a_wrong_number_anywhere_is_seen(trials: Trials) -> None:
    """Also one that is no number, which no comparison finds greater."""
    found = trials.gathered(Packed())
    found[1] = found[1].clone()
    found[1][3, 1, 2] = torch.nan
    assert trials.deviation(found) == float("inf")


def test_numbers_are_rounded_before_they_are_compared() -> None:
    """In bfloat16 an attention is as near as its own roundings, not as those of its inputs."""
    shapes = AttentionShapes(4, 2, 16, 0.25, None, {None: 1}, torch.bfloat16)
    trials = Trials(shapes, CPU, reference=Packed(), row=200, long=100)
    assert 0 < trials.deviation(trials.gathered(PackedTiles(FORM, otherwise=Packed()))) < 5e-3


def test_all_layers_count_in_the_time() -> None:
    """Each window as often as layers have it, on the row of short texts and on the long one."""
    ticks = iter(range(1000))
    rows: list[int] = []

    class Seen(Packed):
        def __call__(self, module: Any, query: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            rows.append(query.shape[2])
            return super().__call__(module, query, *arguments, **named)

    trials = Trials(SHAPES, CPU, reference=Packed(), row=200, long=100, clock=lambda: float(next(ticks)))
    per_run = 1 / 5

    assert trials.seconds(Seen()) == pytest.approx(2 * (3 + 2) * per_run)
    assert {200, 100} == set(rows)


@dataclass
class Asked:
    """What the layers of a reader asked of attention, and what was foretold."""

    shapes: AttentionShapes | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    heard = Asked()

    class Listening(Packed):
        name = "listening"

        def __call__(self, module: Any, query: Any, key: Any, *arguments: Any, **named: Any) -> Any:
            sizes = {"heads": query.shape[1], "kv_heads": key.shape[1], "head_dim": key.shape[3], "dtype": query.dtype}
            heard.calls.append(sizes | {name: named.get(name) for name in ("scaling", "softcap", "sliding_window")})
            return super().__call__(module, query, key, *arguments, **named)

    def register(_device: torch.device, shapes: AttentionShapes) -> AttentionKind:
        heard.shapes = shapes
        AttentionInterface.register("listening", Listening())
        return Listening()

    monkeypatch.setattr(loading, "register_attention", register)
    return heard


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_measured_is_what_a_readers_layers_ask(family: str, tmp_path: Path, asked: Asked) -> None:
    """In every family: heads, sizes, soft caps, scaling, and how many layers have which window."""
    a_reader(save_weights(family, tmp_path))
    shapes, windows = asked.shapes, [call.pop("sliding_window") for call in asked.calls]

    assert shapes
    assert {window: windows.count(window) for window in windows} == shapes.windows
    for call in asked.calls:
        assert call == pytest.approx({name: getattr(shapes, name) for name in call})


def test_a_cpu_is_asked_nothing() -> None:
    """It runs `packed`, at once, and nothing else by name."""
    for wanted in ("auto", "packed"):
        assert type(register_attention(CPU, replace(SHAPES, wanted=wanted))) is Packed
    with pytest.raises(ConfigError, match="attention packed_tiles: runs on GPUs only; use auto"):
        register_attention(CPU, replace(SHAPES, wanted="packed_tiles"))


def test_a_name_takes_only_that_kind() -> None:
    """Whatever its forms; `packed` asks a GPU nothing."""
    for wanted in ("packed_tiles", "packed_flex"):
        titles = [candidate.title for candidate in candidates(replace(SHAPES, wanted=wanted), Packed())]
        assert titles
        assert {wanted} == {title.partition(" ")[0] for title in titles}
    assert type(register_attention(torch.device("cuda"), replace(SHAPES, wanted="packed"))) is Packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [32, 80, 96, 128, 256, 512])
def test_candidates_begin_with_our_own(dtype: torch.dtype, head_dim: int) -> None:
    """The kernel over tiles where heads are not too large for it, then FlexAttention, which is a rival."""
    for kv_heads in (8, 4, 1):
        shapes = AttentionShapes(8, kv_heads, head_dim, 0.1, None, {None: 1}, dtype)
        found = list(candidates(shapes, Packed()))
        own = [candidate for candidate in found if candidate.title.startswith("packed_tiles")]

        assert own == found[: len(forms(shapes))]
        assert bool(own) == (head_dim <= 256)
        assert len({candidate.title for candidate in found}) == len(found)
        assert [False] * len(own) + [True] * 2 == [candidate.rival for candidate in found]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_each_candidate_can_be_made() -> None:
    """Under the name by which a reader's identity tells what ran."""
    made = [candidate.make() for candidate in candidates(SHAPES, Packed())]
    assert ["packed_tiles", "packed_flex", "packed_flex"] == [kind.name for kind in made]
    assert [True, False, False] == [kind.invariant for kind in made]
