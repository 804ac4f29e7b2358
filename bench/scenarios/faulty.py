"""A server whose engine hangs or fails while a file is there: only the engine's runner is stood in for."""

from pathlib import Path
from typing import Self

_SCRIPT = """
import pathlib, sys, time
import scopewatch.app.server as server
from scopewatch.cli import main
from scopewatch.errors import EngineError

real, here = server.load, pathlib.Path(__file__).parent

def load(config):
    loaded = real(config)
    engine = loaded.engine.runner

    def runner(batch):
        if (here / "hangs").exists():
            (here / "is hanging").touch()
            time.sleep(3600)
        encoded = engine(batch)
        if (here / "fails").exists():
            encoded.activations[:] = [EngineError("no memory")] * len(batch)
        return encoded

    # Canaries are read past it.
    runner.alone = engine.alone
    loaded.engine.runner = runner
    return loaded

server.load = load
main(sys.argv[1:])
"""


class FaultyEngine:
    """What makes engines of servers hang or fail.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.script = folder / "serve.py"
        """What such a server runs in place of `-m scopewatch`."""
        self.script.write_text(_SCRIPT)

    def hangs(self) -> Self:
        (self._folder / "hangs").touch()
        return self

    def fails(self) -> Self:
        (self._folder / "fails").touch()
        return self

    def works(self) -> None:
        (self._folder / "fails").unlink()

    @property
    def is_hanging(self) -> bool:
        """Whether a batch hangs now."""
        return (self._folder / "is hanging").exists()
