"""Requests for explanations from plain values, and the document of a reply."""

import scopewatch
from scopewatch.client.requests import ScoreFields, request
from scopewatch.contract.explanation_messages import from_message
from scopewatch.errors import FieldViolation, InvalidRequest, ScopewatchError
from scopewatch.explanation import Explanation
from scopewatch.v1 import monitor_pb2 as pb


def explain_request(*, kept: str, top: int, ablate: bool, delete: bool, fields: ScoreFields) -> pb.ExplainRequest:
    """Builds a request message.

    Args:
        kept: The id of a scored pair whose texts the service keeps; empty where the pair is given.
        top: As in `pb.ExplainRequest`.
        ablate: As in `pb.ExplainRequest`.
        delete: As in `pb.ExplainRequest`.
        fields: The fields of the pair, as `request` takes them.

    Raises:
        InvalidRequest: A field cannot be sent; names it.
    """
    if not isinstance(top, int) or not 0 <= top < 1 << 32:
        raise InvalidRequest(FieldViolation("top", "is no number of features; give 1 to 64, or 0 for 8"))
    pair = request(**fields) if fields or not kept else None
    return pb.ExplainRequest(pair=pair, kept=kept, top=top, ablate=ablate, delete=delete)


def explanation_of(reply: pb.ExplainResponse) -> Explanation:
    """The document of a reply; what was left out of it stands last in `trust`.

    Raises:
        ScopewatchError: The reply is of a version that this client does not know.
    """
    try:
        explanation = from_message(reply.explanation)
    except (ValueError, KeyError):
        version = reply.explanation.provenance.version or "unknown"
        raise ScopewatchError(
            f"the explanation cannot be read; the server's version is {version}, the client's {scopewatch.__version__}"
        ) from None
    if not reply.left_out:
        return explanation
    left_out = f"This was left out so that the reply fits into a message: {'; '.join(reply.left_out)}."
    return explanation.model_copy(update={"trust": (*explanation.trust, left_out)})
