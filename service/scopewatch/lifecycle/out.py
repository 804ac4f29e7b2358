"""Where the result of a scan goes: into one file, or into a folder in which each data file has a result of its own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.lifecycle.rows import check_format
from scopewatch.pairs.rows import STDIN, format_of

FORMATS = ("jsonl", "parquet")


@dataclass(frozen=True, slots=True)
class Out:
    """Where the result goes."""

    path: Path
    """The file of the result, or a folder."""
    each: str = ""
    """The format of the results in the folder, of `FORMATS`; empty where the path is a file."""

    @property
    def parts(self) -> Path:
        """The folder in which finished parts lie until the result is done."""
        return self.path / ".parts" if self.each else self.path.with_name(self.path.name + ".parts")

    def of(self, file: Path) -> Path:
        """The result of a data file: in a folder, under the path by which the file was named."""
        if not self.each:
            return self.path
        inner = Path(*[part for part in file.parts if part not in (file.anchor, ".")])
        bare = inner.with_suffix("") if inner.suffix == ".gz" else inner
        bare = bare.with_suffix("") if bare.suffix in (".csv", ".jsonl", ".parquet") else bare
        return self.path / bare.with_name(f"{bare.name}.{self.each}")

    def check(self, data: Sequence[Path], *, overwrite: bool) -> None:
        """Refuses a result that could not be written, or would take the place of something else.

        Raises:
            DataError: Names the file and the mend.
        """
        if self.each:
            self._check_folder(data)
            return
        out = self.path
        check_format(out)
        if not out.parent.is_dir():
            raise DataError(f"{out.parent}: no such folder")
        if out.exists() and any(file.exists() and out.samefile(file) for file in data):
            raise DataError(f"{out}: is the file to be scored; give another --out")
        if out.exists() and not overwrite:
            raise DataError(f"{out}: exists already; give another --out, or --overwrite")

    def _check_folder(self, data: Sequence[Path]) -> None:
        check_format(self.path / f"any.{self.each}")
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path}: is a file; give another --out, or no / at its end")
        whose: dict[Path, Path] = {}
        for file in data:
            if file == STDIN or ".." in file.parts:
                raise DataError(f"{file}: has no place of its own below {self.path}; give --out a file name")
            if self.path.resolve() in file.resolve().parents:
                raise DataError(f"{file}: lies in {self.path}, where the results go; give another --out")
            if other := whose.get(self.of(file)):
                raise DataError(
                    f"{file}: its result would be {self.of(file)}, as that of {other}; scan {format_of(file)} files "
                    "into another --out"
                )
            whose[self.of(file)] = file


def out_of(name: str, each: str) -> Out:
    """Where a name says that the result goes: it is a folder that is there, or ends in a slash, or else a file.

    Args:
        name: The name, as a user gives it.
        each: The format of results in a folder; empty for JSONL.

    Raises:
        DataError: A format is given for a file, whose name says it.
    """
    path = Path(name).expanduser()
    if name.endswith(os.sep) or path.is_dir():
        return Out(path, each or FORMATS[0])
    if each:
        raise DataError(f"{name}: the name of a file says its format; give --each only where --out is a folder")
    return Out(path)
