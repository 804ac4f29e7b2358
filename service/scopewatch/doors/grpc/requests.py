"""From a request message to a job."""

import uuid

from scopewatch.doors.grpc.call import Call
from scopewatch.doors.limits import Limits, Sent, check_job
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import NO_INPUTS, Pair, ScoreJob, TemplateInputs, Turn
from scopewatch.v1 import monitor_pb2 as pb


def to_job(request: pb.ScoreRequest, limits: Limits, watchlists: WatchlistSet, call: Call) -> ScoreJob:
    """Reads and validates one request.

    Args:
        request: The message.
        limits: What one request may hold.
        watchlists: The watchlists that it may name.
        call: The call that it came by.

    Raises:
        InvalidRequest: Names every field that is wrong.
    """
    # Protobuf decodes a text at every access.
    own_id, history = request.request_id, request.history
    prompt_ids, response_ids = request.prompt_token_ids, request.response_token_ids
    job = ScoreJob(
        pair=Pair(
            prompt=request.prompt,
            response=request.response,
            history=tuple(
                [Turn(turn.role, turn.content, turn.fields_json) for turn in history[: limits.max_history_turns]]
            ),
            inputs=_inputs(request.template_inputs) if request.HasField("template_inputs") else NO_INPUTS,
            prompt_token_ids=tuple(prompt_ids[: limits.max_text_chars]) if prompt_ids else (),
            response_token_ids=tuple(response_ids[: limits.max_text_chars]) if response_ids else (),
        ),
        watchlist=request.watchlist,
        request_id=own_id or str(uuid.uuid4()),
        include_evidence=request.include_evidence,
        labels=dict(request.labels),
        deadline_s=call.deadline_s,
        caller=call.account.caller,
        trace=call.trace,
    )
    check_job(job, Sent(own_id, len(history), len(prompt_ids) + len(response_ids)), limits, watchlists)
    return job


def to_refused(request: pb.ScoreRequest, limits: Limits, call: Call) -> ScoreJob:
    """What may be told of a request that is refused: whose it is, and its id, unless that is what is wrong with it."""
    own_id = request.request_id
    request_id = own_id if len(own_id) <= limits.max_label_chars else ""
    return ScoreJob(Pair("", ""), "", request_id, caller=call.account.caller, trace=call.trace)


def _inputs(inputs: pb.TemplateInputs) -> TemplateInputs:
    return TemplateInputs(inputs.date, inputs.tools_json, inputs.documents_json, inputs.arguments_json)
