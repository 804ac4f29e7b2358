"""Calls any method with JSON and without generated code, as grpcurl does and as Go's protoreflect lets a program do.

python call.py [--descriptors FILE] ADDRESS METHOD [JSON]

The messages come from a descriptor set, which `protoc -I protos --include_imports --descriptor_set_out=FILE
scopewatch/v1/monitor.proto` makes, or without one from the server itself, if it was started with `--reflection`.
Needs grpcio and protobuf; grpcio-reflection to ask the server.
"""

import argparse
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory


def reflected(channel: grpc.Channel, service: str) -> list[bytes]:
    """The files that a server says a service is described by."""
    from grpc_reflection.v1alpha import reflection_pb2

    # The messages of v1 are those of v1alpha under another name.
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    (reply,) = ask(iter([request]), timeout=10)
    if reply.HasField("error_response"):
        raise SystemExit(f"the server does not describe {service}: {reply.error_response.error_message}")
    return list(reply.file_descriptor_response.file_descriptor_proto)


def pool_of(files: list[bytes]) -> descriptor_pool.DescriptorPool:
    """A pool of these files, each behind those that it imports."""
    waiting = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in files]
    pool, there = descriptor_pool.DescriptorPool(), set[str]()
    while waiting:
        file = next((one for one in waiting if there.issuperset(one.dependency)), None)
        if file is None:
            raise SystemExit(f"{waiting[0].name}: a file that it imports is missing; give protoc --include_imports")
        pool.Add(file)
        there.add(file.name)
        waiting.remove(file)
    return pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--descriptors", type=Path, metavar="FILE", help="a descriptor set; else the server is asked")
    parser.add_argument("address", help="host:port of a server")
    parser.add_argument("method", help="for instance scopewatch.v1.MonitorService/GetInfo")
    parser.add_argument("request", nargs="?", default="{}", help="the request, as JSON")
    arguments = parser.parse_args()
    service, _, name = arguments.method.partition("/")
    with grpc.insecure_channel(arguments.address) as channel:
        if arguments.descriptors:
            image = descriptor_pb2.FileDescriptorSet.FromString(arguments.descriptors.read_bytes())
            pool = pool_of([file.SerializeToString() for file in image.file])
        else:
            pool = pool_of(reflected(channel, service))
        method = pool.FindServiceByName(service).methods_by_name[name]
        asked, answered = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = channel.unary_unary(
            f"/{arguments.method}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        try:
            reply = call(json_format.Parse(arguments.request, asked(), descriptor_pool=pool), timeout=10)
        except grpc.RpcError as error:
            raise SystemExit(f"{error.code().name}: {error.details()}") from None
    print(json_format.MessageToJson(reply, preserving_proto_field_name=True, descriptor_pool=pool))


if __name__ == "__main__":
    main()
