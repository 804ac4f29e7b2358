"""A base image for machines that reach no image registry: a minimal Debian, with the Python that runs this in /usr/local.

It stands in for `python:3.N-slim`, which is made of the same parts: the release of Debian that this machine has, and a
Python beside it that is none of Debian's packages.
"""

import platform
import shutil
import sys
from pathlib import Path

from engine import Engine, said

PYTHON = f"python3.{sys.version_info.minor}"
TAG = f"localhost/python:3.{sys.version_info.minor}-slim-standin"
# What python:3.N-slim has beside Python, and the libraries that Python's own modules are linked with.
PACKAGES = ["ca-certificates", "netbase", "tzdata"]
LIBRARIES = [
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libncursesw6",
    "libreadline8",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "zlib1g",
]
UNNEEDED = ("site-packages", "test", "tests", "tkinter", "_tkinter*", "idlelib", "turtledemo", "__pycache__")
CONTAINERFILE = """FROM scratch
ADD root /
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["python3"]
"""


def stand_in(engine: Engine, folder: Path) -> str:
    """The tag of the base image, which is made in `folder` unless it is there already."""
    if not engine.has(TAG):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _debian(folder / "root")
        _python(folder / "root")
        (folder / "Containerfile").write_text(CONTAINERFILE, "utf-8")
        engine.build(folder, TAG, "--file", str(folder / "Containerfile"))
        shutil.rmtree(folder)
    return TAG


def _debian(root: Path) -> None:
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    packages = ",".join(PACKAGES + LIBRARIES)
    said("debootstrap", "--variant=minbase", f"--include={packages}", release, str(root))
    for rubbish in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / rubbish)
        (root / rubbish).mkdir()


def _python(root: Path) -> None:
    """Copies the Python that runs this, without what is installed into it."""
    here, there = Path(sys.base_prefix), root / "usr" / "local"
    shutil.copytree(
        here / "lib" / PYTHON, there / "lib" / PYTHON, symlinks=True, ignore=shutil.ignore_patterns(*UNNEEDED)
    )
    (there / "lib" / PYTHON / "site-packages").mkdir()
    for library in (here / "lib").glob("libpython3*.so*"):
        shutil.copy2(library, there / "lib", follow_symlinks=False)
    (there / "bin").mkdir(exist_ok=True)
    shutil.copy2(here / "bin" / PYTHON, there / "bin")
    for alias in ("python", "python3"):
        (there / "bin" / alias).symlink_to(PYTHON)
    said("chroot", str(root), "/sbin/ldconfig")
