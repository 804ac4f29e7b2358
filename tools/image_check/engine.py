"""Podman with a storage of its own, which needs no daemon and no registry."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONTAINERS = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
"""How every container is run: as the manifests run it."""


def said(*command: str, environment: dict[str, str] | None = None, timeout_s: float | None = None) -> str:
    """What a command printed; it ends this program, with its output, where it fails."""
    ended = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    if ended.returncode:
        sys.exit(f"{' '.join(command)}\n{ended.stdout[-4000:]}\nexit code {ended.returncode}")
    return ended.stdout


@dataclass(frozen=True)
class Layer:
    """One step of an image's history that holds files."""

    made_by: str
    megabytes: float


class Engine:
    """Builds and runs images.

    Args:
        folder: Where images, containers and the cache of builds lie.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "containers.conf").write_text(CONTAINERS, "utf-8")
        (folder / "storage.conf").write_text(STORAGE.format(folder=folder), "utf-8")
        self.environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "TMPDIR": str(folder / "tmp"),
        }

    def podman(self, *arguments: str) -> str:
        """What Podman printed; ends this program where it fails."""
        return said("podman", *arguments, environment=self.environment)

    def tried(self, *arguments: str, timeout_s: float = 600) -> "subprocess.CompletedProcess[str]":
        """A Podman command that may fail, with what it printed."""
        command = ["podman", *arguments]
        return subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def has(self, tag: str) -> bool:
        return self.tried("image", "exists", tag).returncode == 0

    def build(self, context: Path, tag: str, *options: str) -> str:
        """Builds an image; steps that did not change are taken from the build before."""
        return self.podman("build", "--isolation", "chroot", "--layers", *options, "--tag", tag, str(context))

    def layers(self, tag: str) -> list[Layer]:
        """An image's layers that are larger than 1 MB, the lowest first."""
        history = json.loads(self.podman("history", "--format", "json", tag))
        found = [Layer(step["CreatedBy"], step["size"] / 1e6) for step in reversed(history)]
        return [layer for layer in found if layer.megabytes > 1]

    def described(self, tag: str) -> dict[str, object]:
        """The image's configuration: User, Entrypoint, Env, Labels, ..."""
        return json.loads(self.podman("image", "inspect", tag))[0]["Config"]

    def run(
        self, tag: str, *arguments: str, options: tuple[str, ...] = (), timeout_s: float = 600
    ) -> "subprocess.CompletedProcess[str]":
        """A hardened container that runs to its end, without a network."""
        return self.tried("run", "--rm", "--network", "none", *HARDENED, *options, tag, *arguments, timeout_s=timeout_s)

    @contextmanager
    def started(self, tag: str, *arguments: str, options: tuple[str, ...] = ()) -> Iterator[str]:
        """The name of a hardened container that runs until the block ends."""
        name = self.podman("run", "--detach", *HARDENED, *options, tag, *arguments).split()[-1]
        try:
            yield name
        finally:
            self.tried("rm", "--force", "--time", "0", name)
