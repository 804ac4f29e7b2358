"""Server reflection: what tools such as grpcurl ask to learn a server's services and messages.

Its protocol has two names, `grpc.reflection.v1alpha` and the newer `grpc.reflection.v1`, with the same messages
(https://github.com/grpc/grpc-proto). grpcio-reflection has the older one alone; newer tools ask for the newer first.
"""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

_SERVICE = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Lets a server describe itself, under both names.

    Args:
        server: A server that has not started.
        services: The full names of its other services.
    """
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(_newer_file().SerializeToString())
    names = (*services, reflection.SERVICE_NAME, _SERVICE)
    servicer: Any = reflection.aio.ReflectionServicer(names, pool=pool)
    stubs: Any = reflection_pb2_grpc
    stubs.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = grpc.method_handlers_generic_handler(_SERVICE, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((methods,))


def _newer_file() -> descriptor_pb2.FileDescriptorProto:
    """The file of the newer name, made of that of the older."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = json_format.MessageToJson(file).replace("v1alpha", "v1")
    newer = descriptor_pb2.FileDescriptorProto()
    json_format.Parse(text, newer)
    return newer
