"""Explanations cross the wire whole, and fit into a message."""

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from scopewatch.client.explanations import explain_request, explanation_of
from scopewatch.client.requests import ScoreFields
from scopewatch.contract.explanation_messages import from_message, to_message
from scopewatch.doors.explaining import tokens_read
from scopewatch.doors.grpc.explaining import explanation_reply
from scopewatch.errors import InvalidRequest, ScopewatchError
from scopewatch.explanation import (
    Ablation,
    CoverageExplained,
    Deletion,
    DictionaryFeature,
    Explanation,
    Feature,
    Heat,
    IndicatorExplained,
    ProvenanceExplained,
    SaeExplained,
    SegmentFeatures,
    Text,
    TokenFeatures,
    Tokens,
)
from scopewatch.v1 import monitor_pb2 as pb

N = 300


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that stands in the document."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        return st.lists(any_of(inner[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
    if origin in {Union, types.UnionType}:
        return st.one_of(*(st.none() if one is type(None) else any_of(one) for one in inner))
    if issubclass(kind, BaseModel):
        return st.builds(kind, **{name: any_of(field.annotation) for name, field in kind.model_fields.items()})
    plain = {
        bool: st.booleans(),
        int: st.integers(0, 2**32 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    }
    return plain[kind]


@settings(max_examples=25)
@given(any_of(Explanation))
def test_what_is_sent_is_what_arrives(explanation: Explanation) -> None:
    """Every number, to its last bit, every word of an enumeration, and what is absent."""
    sent = to_message(explanation).SerializeToString()

    assert from_message(pb.Explanation.FromString(sent)) == explanation


def pairs_of(model: type[BaseModel], message: Descriptor) -> Iterator[tuple[type[BaseModel], Descriptor]]:
    """A model with its message, and those inside of it."""
    yield model, message
    for name, field in model.model_fields.items():
        kinds = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
        for kind in kinds:
            if issubclass(kind, BaseModel):
                yield from pairs_of(kind, message.fields_by_name[name].message_type)


def test_no_field_is_only_on_one_side() -> None:
    """Each model of the document has the fields of its message, and may leave out what the message may."""
    for model, message in pairs_of(Explanation, pb.Explanation.DESCRIPTOR):
        assert set(model.model_fields) == set(message.fields_by_name), message.name
        for name, field in model.model_fields.items():
            told = message.fields_by_name[name]
            if not told.message_type and not told.is_repeated:
                assert (type(None) in get_args(field.annotation)) == told.has_presence, f"{message.name}.{name}"


def large(tokens: int, top: int = 64) -> Explanation:
    """An explanation of so many tokens in which everything fired."""
    everywhere = Heat(token=tuple(range(tokens)), value=(0.1,) * tokens)
    strongest = TokenFeatures(feature=tuple(range(10_000, 10_000 + top)), activation=(0.1,) * top)
    features = tuple(DictionaryFeature(feature=n, peak=1.0, mean=0.5, tokens=tokens) for n in range(top))
    scored: dict[str, Any] = {"kind": "features", "severity": "low", "segment": "response", "score": 1.0}
    judged: dict[str, Any] = {"threshold": 0.5, "flagged": True, "calibrated": False, "bias": 0.0}
    return Explanation(
        request_id="r",
        verdict="flag",
        summary="so it is",
        trust=("not far",),
        texts=(Text(segment="response", text="a" * tokens),),
        tokens=Tokens(text=(0,) * tokens, start=tuple(range(tokens)), end=tuple(range(1, tokens + 1))),
        indicators=tuple(IndicatorExplained(name=f"i{n}", heat=everywhere, **scored, **judged) for n in range(3)),
        features=tuple(Feature(feature=f"mid/{n}", heat=everywhere) for n in range(20)),
        saes=(
            SaeExplained(
                sae="mid",
                hookpoint="layers.1.resid_post",
                d_sae=16384,
                segments=(SegmentFeatures(segment="response", features=features),),
                tokens=(strongest,) * tokens,
                unexplained=(0.5,) * tokens,
            ),
        ),
        coverage=CoverageExplained(tokens=tokens + 3, prompt_tokens=0, response_tokens=tokens, history_tokens=0),
        provenance=ProvenanceExplained(
            reader="r", reader_digest="d", watchlist="w", watchlist_digest="e", relation="reader_model", version="1"
        ),
    )


WHOLE = large(N)
SIZE = len(explanation_reply(WHOLE, 1 << 30))


@pytest.mark.parametrize("max_bytes", [SIZE, SIZE - 1, SIZE // 2, SIZE // 4, SIZE // 8, SIZE // 20, SIZE // 40])
def test_a_reply_that_is_too_large_is_shortened_and_says_in_what(max_bytes: int) -> None:
    """What is told of single tokens goes first; texts, sums, verdict and trust stay as they are."""
    sent = explanation_reply(WHOLE, max_bytes)
    reply = pb.ExplainResponse.FromString(sent)
    told = explanation_of(reply)

    assert len(sent) <= max_bytes
    assert bool(reply.left_out) == (max_bytes < SIZE)
    assert (told.texts, told.tokens, told.summary, told.verdict) == (
        *(WHOLE.texts, WHOLE.tokens, WHOLE.summary, WHOLE.verdict),
    )
    assert [(one.score, one.terms) for one in told.indicators] == [(one.score, one.terms) for one in WHOLE.indicators]
    assert len(told.saes[0].tokens) == N
    for what in reply.left_out:
        assert what in told.trust[-1]
    assert told.trust[: len(WHOLE.trust)] == WHOLE.trust


def test_what_is_left_out_goes_in_this_order() -> None:
    """No more is left out than has to be."""
    short, shorter = (
        explanation_of(pb.ExplainResponse.FromString(explanation_reply(WHOLE, size))) for size in (SIZE - 1, SIZE // 4)
    )
    assert {len(token.feature) for token in short.saes[0].tokens} == {8}
    assert short.features == WHOLE.features
    assert {len(token.feature) for token in shorter.saes[0].tokens} == {0}
    assert shorter.indicators == WHOLE.indicators


def test_one_that_cannot_fit_is_refused() -> None:
    """The error names the pair, and what it takes."""
    with pytest.raises(InvalidRequest, match=r"its explanation takes .* bytes at the least, and 500 are sent at most"):
        explanation_reply(WHOLE, 500)


def test_what_an_explanation_costs_is_all_passes_over_the_pair() -> None:
    """Scored once, looked into once; and once for each ablation, each control and each shortened pair."""
    ablated = Ablation(indicator="i", controls=20, conclusion="")
    deletion = Deletion(turned=True, scored=7, conclusion="")

    assert tokens_read(WHOLE) == 2 * (N + 3)
    assert tokens_read(WHOLE.model_copy(update={"ablations": (ablated,) * 2, "deletion": deletion})) == 51 * (N + 3)


@pytest.mark.parametrize("changes", [{"verdict": 0}, {"verdict": 99}, {"coverage": None}])
def test_a_reply_of_another_version_is_an_error_of_ours(changes: dict[str, Any]) -> None:
    """What a client cannot read is said to be so, with both versions."""
    message = to_message(WHOLE)
    for name, value in changes.items():
        if value is None:
            message.ClearField(name)
        else:
            setattr(message, name, value)
    with pytest.raises(ScopewatchError, match="the server's version is 1, the client's"):
        explanation_of(pb.ExplainResponse(explanation=message))


@pytest.mark.parametrize(
    ("fields", "names"),
    [({"prompt": "a\ud800"}, "prompt"), ({"top": -1}, "top"), ({"top": "8"}, "top"), ({"top": 1 << 32}, "top")],
)
def test_what_cannot_be_sent_is_refused_by_its_name(fields: dict[str, Any], names: str) -> None:
    """A client says what is wrong before it calls."""
    given = {"kept": "", "top": 0, "ablate": False, "delete": False}
    pair: ScoreFields = {name: value for name, value in fields.items() if name not in given}  # type: ignore[assignment]
    with pytest.raises(InvalidRequest) as refused:
        explain_request(**(given | {name: value for name, value in fields.items() if name in given}), fields=pair)
    assert [one.field for one in refused.value.violations] == [names]


def test_only_a_kept_pair_is_asked_for_without_its_texts() -> None:
    """Either the id alone crosses, or the pair."""
    given: dict[str, Any] = {"top": 0, "ablate": False, "delete": True}
    assert explain_request(kept="r-1", fields={}, **given) == pb.ExplainRequest(kept="r-1", delete=True)
    assert explain_request(kept="", fields={"response": "a"}, **given).pair.response == "a"
