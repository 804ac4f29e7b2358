"""The one table from scopewatch's errors to gRPC status, and back for the client."""

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import StatusCode

from scopewatch import errors

DOMAIN = "scopewatch"
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata that gRPC clients with a retry policy obey (gRFC A6)."""

_CODES: dict[type[errors.ScopewatchError], StatusCode] = {
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.UnknownWatchlist: StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.NotAllowed: StatusCode.PERMISSION_DENIED,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExpired: StatusCode.DEADLINE_EXCEEDED,
    errors.NotReady: StatusCode.UNAVAILABLE,
    errors.NotKept: StatusCode.NOT_FOUND,
    errors.EngineError: StatusCode.INTERNAL,
    errors.EngineDied: StatusCode.UNAVAILABLE,
    errors.SetupError: StatusCode.FAILED_PRECONDITION,
    errors.ScopewatchError: StatusCode.INTERNAL,
}
_SIMPLE: dict[int, type[errors.ScopewatchError]] = {
    code_pb2.UNAUTHENTICATED: errors.Unauthenticated,
    code_pb2.PERMISSION_DENIED: errors.NotAllowed,
    code_pb2.NOT_FOUND: errors.NotKept,
    code_pb2.DEADLINE_EXCEEDED: errors.DeadlineExpired,
    code_pb2.INTERNAL: errors.EngineError,
}
_UNKNOWN = "an unexpected error; the server's log has the details"


def code_of(error: Exception) -> StatusCode:
    """The status of the nearest class in the table; INTERNAL for anything that is not ours."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), StatusCode.INTERNAL)


def to_status(error: Exception) -> status_pb2.Status:
    """The full status with details: ErrorInfo always, BadRequest with the fields, RetryInfo with the pause."""
    code: int = code_of(error).value[0]
    reason = error.reason.upper() if isinstance(error, errors.ScopewatchError) else "UNEXPECTED"
    details = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)]
    if isinstance(error, errors.InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if (pause_ms := pushback_ms(error)) is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromMilliseconds(pause_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code, message=str(error) if isinstance(error, errors.ScopewatchError) else _UNKNOWN)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def pushback_ms(error: Exception) -> int | None:
    """Milliseconds to wait before trying again; None where that would be of no use, or nobody can tell."""
    pause_s = error.retry_after_s if isinstance(error, errors.ScopewatchError) else None
    return None if pause_s is None else round(1000 * pause_s)


def from_status(status: status_pb2.Status) -> errors.ScopewatchError:
    """The error a status stands for, as far as the wire tells; the inverse of `to_status` for the client."""
    violations: list[errors.FieldViolation] = []
    retry_after_s: float | None = None
    for packed in status.details:
        bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(bad_request):
            violations = [errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        elif packed.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if status.code == code_pb2.INVALID_ARGUMENT:
        return errors.InvalidRequest(*violations or [errors.FieldViolation("request", status.message)])
    if status.code == code_pb2.UNAVAILABLE:
        return errors.NotReady(status.message, retry_after_s=retry_after_s)
    if status.code == code_pb2.RESOURCE_EXHAUSTED:
        return errors.Overloaded(status.message, retry_after_s=retry_after_s or 0.0)
    return _SIMPLE.get(status.code, errors.ScopewatchError)(status.message)
