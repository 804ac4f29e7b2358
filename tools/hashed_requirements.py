"""Write requirements-{image,tools,build}.txt: every wheel that an image build may install, with its SHA-256.

python tools/hashed_requirements.py [--check]

pip says what it would install from its configured index: the releases of constraints.txt, as wheels for the Python and
the processors that images are made for. torch is left out: each of its indexes has a build of its own.
`--check` writes nothing: it says whether the files are what would be written, and lets pip read each wheel's hash.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
IMAGE, TOOLS, BUILD = (f"requirements-{name}.txt" for name in ("image", "tools", "build"))
PROCESSORS = ("x86_64", "aarch64")
OLDEST_GLIBC, IMAGE_GLIBC = 17, 41
"""Minor versions of glibc 2 that wheels are built against: from manylinux2014's to that of the image's Debian."""


def image_python() -> str:
    """The Python of the Dockerfile's base image, such as `3.11`."""
    named = re.search(r"^ARG PYTHON_IMAGE=python:(3\.\d+)-", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    if not named:
        sys.exit("Dockerfile: ARG PYTHON_IMAGE does not name a Python as python:3.N-...")
    # pip takes wheels for the Python that it is told, but reads markers for the one that it runs on.
    if named[1] != f"3.{sys.version_info.minor}":
        sys.exit(f"the image has Python {named[1]}: run this with it")
    return named[1]


def wanted() -> dict[str, list[str]]:
    """What each file begins with: what the service needs, torch's needs with it; what offline commands need; what builds the
    image."""
    project, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"] for folder in (".", "client")
    )
    pinned = {canonicalize_name(line.partition("==")[0]) for line in CONSTRAINTS.read_text("utf-8").splitlines()}
    # What torch needs and constraints.txt does not pin are the libraries of its CUDA build, and come with that build.
    of_torch = [need for need in requires("torch") or () if canonicalize_name(Requirement(need).name) in pinned]
    # The client comes from the checkout, so what it needs stands for it.
    apart = {"torch", client["name"]}
    own = [need for need in project["dependencies"] + client["dependencies"] if Requirement(need).name not in apart]
    extras = project["optional-dependencies"]
    return {
        IMAGE: own + extras["tracing"] + [need for need in of_torch if "extra ==" not in need],
        TOOLS: extras["calibration"] + extras["reader"] + extras["ray"],
        BUILD: extras["build"],
    }


def pip(*arguments: str) -> dict[str, Any]:
    """pip's report of what it would install, without installing it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", image_python()]
        command += ["--target", folder, "--report", str(report), *arguments]
        if subprocess.run(command, check=False).returncode:
            sys.exit("pip could not do that; its message is above")
        return json.loads(report.read_text("utf-8"))


def platforms(processor: str) -> list[str]:
    """pip's options that stand for the image's Debian on a processor, the newest wheels first."""
    tags = [f"manylinux_2_{minor}_{processor}" for minor in range(IMAGE_GLIBC, OLDEST_GLIBC - 1, -1)]
    return [part for tag in [*tags, f"manylinux2014_{processor}"] for part in ("--platform", tag)]


def hashed(needs: list[str], there: str = "") -> str:
    """The lines of a requirements file, from what pip would install for each processor.

    Args:
        needs: What the file begins with.
        there: The lines of another file, which is installed before: what is in it is left out.
    """
    hashes: dict[str, set[str]] = defaultdict(set)
    for processor in PROCESSORS:
        for wheel in pip(*platforms(processor), "--constraint", str(CONSTRAINTS), *needs)["install"]:
            url, pin = wheel["download_info"]["url"], "{name}=={version}".format(**wheel["metadata"])
            if not url.startswith("https:"):
                sys.exit(
                    f"{pin} comes from {url}: take local folders out of pip's configuration (PIP_CONFIG_FILE=/dev/null)"
                )
            hashes[pin].add(wheel["download_info"]["archive_info"]["hashes"]["sha256"])
    lines = [
        f"# Made by tools/hashed_requirements.py for Python {image_python()}: `make requirements`.",
        "--only-binary :all:",
    ]
    lines += [
        " \\\n    ".join([pin, *(f"--hash=sha256:{value}" for value in sorted(hashes[pin]))])
        for pin in sorted(hashes, key=str.lower)
        if f"\n{pin} " not in there
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is out of date")
    check = parser.parse_args().check
    texts = {name: hashed(needs) for name, needs in wanted().items() if name != TOOLS}
    texts[TOOLS] = hashed(wanted()[TOOLS], texts[IMAGE])
    for name, text in texts.items():
        file = ROOT / name
        if not check:
            file.write_text(text, "utf-8")
        elif file.read_text("utf-8") != text:
            sys.exit(f"{name} is out of date: run `make requirements`")
        else:
            for processor in PROCESSORS:
                pip(*platforms(processor), "--require-hashes", "--no-deps", "--requirement", str(file))
        print(f"{name}: {text.count('==')} releases, {text.count('--hash=')} hashes")


if __name__ == "__main__":
    main()
