"""Writes docs/api.md, the reference of the gRPC interface, from the protos' comments and the table of errors.

python tools/api_reference.py
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from scopewatch import errors
from scopewatch.contract.status import DOMAIN, PUSHBACK, code_of
from scopewatch.doors.auth import NEEDED

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
PROTO = "scopewatch/v1/monitor.proto"
Field = descriptor_pb2.FieldDescriptorProto
File = descriptor_pb2.FileDescriptorProto
Comments = Mapping[tuple[int, ...], str]
"""What stands before each definition, by its path in the file; https://protobuf.dev/reference/protobuf/google.protobuf."""
# Numbers of fields of FileDescriptorProto, DescriptorProto, EnumDescriptorProto and ServiceDescriptorProto.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_OWN, _ONEOFS = 2, 8

OPENING = f"""# API reference

Made by `make api-reference` from [`protos/{PROTO}`](../protos/{PROTO}), whose comments these are.

{{about}}

Every client of gRPC can call it. For Python there is [scopewatch-client](client.md); other languages compile the proto, which
with `protos/google/rpc/status.proto` beside it needs nothing else: `protoc -I protos ...`. A server that was started with
`--reflection` describes itself, by `grpc.reflection.v1` and `v1alpha`. Health is `grpc.health.v1`: the service `""` is served as
long as the process lives, `scopewatch.v1.MonitorService` while it is ready for calls.

A field without a default that is not set reads as 0, false or empty, as proto3 has it; `optional` ones and messages can be absent.
"""
STATUSES = f"""## Errors

A call that fails has a status whose details (`google.rpc.Status`, in the trailing metadata `grpc-status-details-bin`) hold a
`google.rpc.ErrorInfo` of the domain `{DOMAIN}` with the reason. An item of a batch that fails has the same status in its place.

| status | reason | when | further details |
|---|---|---|---|
"""
FURTHER = f"""
`RetryInfo` says after how long to ask again; the trailing metadata `{PUSHBACK}` says it to gRPC's own retries. The
client's exceptions have the names of the reasons in another spelling (`INVALID_REQUEST` is `InvalidRequest`).

The transport itself ends calls too, with a status without details: `UNAVAILABLE` where no server is reached, `DEADLINE_EXCEEDED` at
the caller's deadline, `CANCELLED` where the caller or a stopping server hangs up, `UNIMPLEMENTED` for a method that does not exist.
"""


def described() -> File:
    """The proto with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.binpb")
        includes = [f"-I{ROOT / 'protos'}", f"-I{files('grpc_tools') / '_proto'}"]
        flags = ["--include_source_info", f"--descriptor_set_out={image}"]
        if protoc.main(["protoc", *includes, *flags, PROTO]):
            raise SystemExit("protoc could not read the proto; its message is above")
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    return file


def comments_of(file: File) -> Comments:
    """What stands before each definition, in paragraphs."""
    return {
        tuple(place.path): "\n\n".join(" ".join(part.split()) for part in place.leading_comments.split("\n\n"))
        for place in file.source_code_info.location
        if place.leading_comments
    }


def about(file: File) -> str:
    """The comment at the top of the file, which stands before its `syntax`."""
    (syntax,) = [place for place in file.source_code_info.location if list(place.path) == [12]]
    text = syntax.leading_comments or "".join(syntax.leading_detached_comments)
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def kind(field: Field, maps: Mapping[str, descriptor_pb2.DescriptorProto]) -> str:
    """The type of a field, with a link to the section of a message or an enumeration."""
    if found := maps.get(field.type_name):
        return f"map of {kind(found.field[0], {})} to {kind(found.field[1], {})}"
    if field.type_name.startswith(".google."):
        shown = f"`{field.type_name[1:]}`"
    elif field.type_name:
        name = field.type_name.rpartition(".")[2]
        shown = f"[`{name}`](#{name.lower()})"
    else:
        shown = f"`{Field.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    if field.label == Field.LABEL_REPEATED:
        return f"list of {shown}"
    return f"optional {shown}" if field.proto3_optional else shown


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("\n\n", "<br>").replace("|", "\\|") for cell in cells) + " |\n"


def methods(file: File, comments: Comments) -> Iterator[str]:
    """The sections of the service's methods."""
    for place, service in enumerate(file.service):
        path = (_SERVICES, place)
        full_name = f"{file.package}.{service.name}"
        yield f"## {service.name}\n\n{comments[path]} Its full name is `{full_name}`.\n\n"
        for number, method in enumerate(service.method):
            asked, answered = (name.rpartition(".")[2] for name in (method.input_type, method.output_type))
            yield f"### {method.name}\n\n"
            yield f"[`{asked}`](#{asked.lower()}) → [`{answered}`](#{answered.lower()})\n\n"
            yield f"{comments[(*path, _OWN, number)]}\n\n"
            roles = [f"`{role}`" for role in NEEDED[f"/{full_name}/{method.name}"]]
            yield f"Where the server has a [role file](roles.md), the caller needs the role {' or '.join(roles)}.\n\n"


def messages(file: File, comments: Comments) -> Iterator[str]:
    """The sections of the messages."""
    yield "## Messages\n\n"
    for place, message in enumerate(file.message_type):
        path = (_MESSAGES, place)
        maps = {
            f".{file.package}.{message.name}.{nested.name}": nested
            for nested in message.nested_type
            if nested.options.map_entry
        }
        yield f"### {message.name}\n\n{comments[path]}\n\n"
        if not message.field:
            yield "It has no fields.\n\n"
            continue
        yield row("field", "number", "type", "meaning") + "|---|---|---|---|\n"
        for number, field in enumerate(message.field):
            meaning = comments[(*path, _OWN, number)]
            if field.HasField("oneof_index") and not field.proto3_optional:
                meaning += f" One of `{message.oneof_decl[field.oneof_index].name}`."
            yield row(f"`{field.name}`", field.number, kind(field, maps), meaning)
        yield "\n"


def enumerations(file: File, comments: Comments) -> Iterator[str]:
    """The sections of the enumerations."""
    yield "## Enumerations\n\n"
    for place, enum in enumerate(file.enum_type):
        path = (_ENUMS, place)
        yield f"### {enum.name}\n\n{comments[path]}\n\n"
        yield row("value", "number", "meaning") + "|---|---|---|\n"
        for number, value in enumerate(enum.value):
            yield row(f"`{value.name}`", value.number, comments[(*path, _OWN, number)])
        yield "\n"


def statuses() -> Iterator[str]:
    """The rows of the errors that a caller may meet, in the order of the tree in `scopewatch.errors`."""
    for name, when in re.findall(r"[├└]── (\w+) *(.*)", errors.__doc__ or ""):
        error: type[errors.ScopewatchError] = getattr(errors, name)
        if issubclass(error, errors.SetupError):
            # `ReloadWatchlists` makes one error of all the mistakes that there are.
            continue
        made = error.__new__(error)
        further = []
        if issubclass(error, errors.InvalidRequest):
            further.append("`BadRequest` with each field that is wrong")
        if error in {errors.Overloaded, errors.NotReady}:
            further.append("`RetryInfo`" + (", where that can be told" if error is errors.NotReady else ""))
        yield row(f"`{code_of(made).name}`", f"`{made.reason.upper()}`", when, ", ".join(further))
    refused = (
        "of `ReloadWatchlists`: the watchlist files, or what they name, are not in order; one line for each mistake"
    )
    yield row(f"`{code_of(errors.SetupError()).name}`", "`SETUP_ERROR`", refused, "")
    yield row("`INTERNAL`", "`UNEXPECTED`", "an unexpected failure; the server's log has the details", "")


def page() -> str:
    """The whole page."""
    file = described()
    comments = comments_of(file)
    sections = (*methods(file, comments), *messages(file, comments), *enumerations(file, comments))
    return "".join([OPENING.format(about=about(file)), "\n", *sections, STATUSES, *statuses(), FURTHER])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
