"""Imports transformers without what it imports besides and no reader here uses (decision 0055).

It is for processes that are scopewatch's own: what is left out stays out of transformers for as long as they live.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo"
_OF_THE_COMPILER = (_COMPILER, f"{_COMPILER}._trace_wrapped_higher_order_op")
"""The modules of torch's compiler that transformers imports."""
_OPTIONAL = ("accelerate", "librosa", "pandas", "PIL", "scipy", "sklearn", "torchvision")
"""Packages that transformers imports where they are installed, which is so where the offline commands are."""
_LISTING = "transformers.utils.import_utils"
"""The module of the function that reads through the files of all models, twice, for the names they give."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Keeps torch's compiler, its distributed tensors, optional packages and a list of all models out of a first import
    of transformers.

    Transformers marks functions for the compiler, which no reader is given to as a whole. A compiler that is imported
    afterwards, for instance for a GPU's attention, is the real one. Whoever imports a model, or what maps names to
    models, names its module: `transformers` itself does not know it. Once transformers or the compiler is imported,
    this does nothing.
    """
    if "transformers" in sys.modules or _COMPILER in sys.modules:
        yield
        return
    # It stays so: transformers remembers what it found, and asks again while it loads weights.
    torch.distributed.is_available = _no
    absent = {name: None for name in _OPTIONAL if name not in sys.modules}
    instead: dict[str, Any] = absent | {name: _Compiler(name) for name in _OF_THE_COMPILER}
    sys.modules.update(instead)
    unlisted = _Unlisted()
    sys.meta_path.insert(0, unlisted)
    try:
        yield
        # The module of every model imports it.
        importlib.import_module("transformers.generation.utils")
    finally:
        sys.meta_path.remove(unlisted)
        for name in instead:
            del sys.modules[name]
        torch.__dict__.pop("_dynamo", None)


class _Compiler(ModuleType):
    """Stands for a module of the compiler while functions are marked for it."""

    def __getattr__(self, name: str) -> "_Later":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(self, name)


class _Later:
    """Something of the compiler: as a mark, it leaves a function as it is; used later, it is the real one."""

    def __init__(self, module: _Compiler, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *given: Any, **named: Any) -> Any:
        if sys.modules.get(self._module.__name__) is self._module:
            return given[0] if given and callable(given[0]) else self
        return getattr(importlib.import_module(self._module.__name__), self._name)(*given, **named)


class _Unlisted(MetaPathFinder):
    """Has transformers list the names of one model when it is imported, and never those of all."""

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == _LISTING else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                every: Any = getattr(module, "define_import_structure", None)
                if every:
                    module.__dict__["define_import_structure"] = _of_one_model(every)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _of_one_model(every: Any) -> Any:
    """What lists the names below a folder, where that is one model's."""

    def listed(place: str | Path, *given: Any, **named: Any) -> Any:
        folder = Path(place).parent if Path(place).name == "__init__.py" else Path(place)
        return {frozenset(): {}} if folder.name == "models" else every(place, *given, **named)

    return listed


def _no() -> bool:
    return False
