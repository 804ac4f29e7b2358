"""What messages and the values they are made of have in common: enumerations, and fields of one name."""

from typing import TypeVar

from google.protobuf.message import Message

from scopewatch.types import Segment
from scopewatch.v1 import monitor_pb2 as pb

M = TypeVar("M", bound=Message)
SEVERITIES = {
    "info": pb.SEVERITY_INFO,
    "low": pb.SEVERITY_LOW,
    "medium": pb.SEVERITY_MEDIUM,
    "high": pb.SEVERITY_HIGH,
}
SEGMENTS = {
    Segment.PROMPT: pb.SEGMENT_PROMPT,
    Segment.RESPONSE: pb.SEGMENT_RESPONSE,
    Segment.HISTORY: pb.SEGMENT_HISTORY,
}
CALIBRATIONS = {True: pb.CALIBRATION_CALIBRATED, False: pb.CALIBRATION_UNCALIBRATED}


def mirror(message_type: type[M], value: object) -> M:
    """A message whose every field has a namesake in `value`."""
    return message_type(**{name: getattr(value, name) for name in message_type.DESCRIPTOR.fields_by_name})
