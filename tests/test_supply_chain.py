"""What an image is made of: pinned with hashes, listed, and started from a digest. Checked without building anything."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dockerfile import dockerfile, stages

ROOT = Path(__file__).parents[1]
PROJECT, CLIENT = (
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"] for folder in (".", "client")
)
EXTRAS = PROJECT["optional-dependencies"]
# The client comes from the checkout, so what it needs stands for it.
SERVES = [need for need in PROJECT["dependencies"] + CLIENT["dependencies"] if Requirement(need).name != CLIENT["name"]]
SERVES += EXTRAS["tracing"]
IMAGE = {
    "python_version": "3.11",
    "python_full_version": "3.11.14",
    "sys_platform": "linux",
    "platform_system": "Linux",
}
DIGEST = "python@sha256:" + "0" * 64
RELEASE_LINE = re.compile(r"([\w.-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


def pinned() -> dict[str, str]:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert len(pins) == len({canonicalize_name(name) for name, _ in pins}), "a release is pinned twice"
    return {canonicalize_name(name): version for name, version in pins}


def hashed(file: str) -> dict[str, str]:
    """The releases of a hashed file; every line of it is one, and names at least one hash."""
    _, only_wheels, *lines = (ROOT / file).read_text("utf-8").replace(" \\\n   ", "").splitlines()
    assert only_wheels == "--only-binary :all:"
    releases = [RELEASE_LINE.fullmatch(line) for line in lines]
    assert all(releases)
    found = [(canonicalize_name(release[1]), release[2]) for release in releases if release]
    assert len(found) == len(dict(found)), "a release is there twice"
    return dict(found)


def needed(needs: list[str]) -> set[str]:
    """What is needed in an image, and what that needs in turn, by installed metadata and markers."""
    found = set[tuple[str, str]]()
    waiting = [("", need) for need in needs]
    while waiting:
        extra, line = waiting.pop()
        need = Requirement(line)
        name = canonicalize_name(need.name)
        if need.marker and not need.marker.evaluate({**IMAGE, "extra": extra}):
            continue
        for extra in {"", *need.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                waiting += [
                    (extra, further) for further in distribution(name).requires or () if not of_cuda(name, further)
                ]
    return {name for name, _ in found}


def of_cuda(name: str, need: str) -> bool:
    """Whether a need is a library of torch's CUDA build, which comes with that build at the version it names."""
    return name == "torch" and canonicalize_name(Requirement(need).name) not in pinned()


def run_lines() -> str:
    return "\n".join(rest for word, rest in dockerfile() if word == "RUN")


def test_every_dependency_of_the_program_has_its_hash() -> None:
    """All that the program needs to serve, needs of needs included, is in the hashed file once, and nothing else is. Torch
    has a step of its own."""
    assert needed(SERVES) - {"torch"} == hashed("requirements-image.txt").keys()


def test_the_tools_add_what_offline_commands_need() -> None:
    """The second file has what calibration, a reader's conversion and Ray need, and nothing that the first one has."""
    offline = EXTRAS["calibration"] + EXTRAS["reader"] + EXTRAS["ray"]
    assert needed(offline) - needed(SERVES) == hashed("requirements-tools.txt").keys()


@pytest.mark.parametrize("file", ["requirements-image.txt", "requirements-tools.txt", "requirements-build.txt"])
def test_hashed_releases_are_those_that_were_tested(file: str) -> None:
    """A hashed file names the releases of constraints.txt."""
    pins = pinned()
    releases = hashed(file)
    assert {name: pins.get(name) for name in releases} == releases


def test_tools_that_build_the_image_have_their_hashes() -> None:
    """What pyproject.toml builds with is in the hashed file of the build's own environment."""
    build = {canonicalize_name(Requirement(need).name) for need in PROJECT["optional-dependencies"]["build"]}
    assert build <= hashed("requirements-build.txt").keys()


def test_image_installs_nothing_unhashed_but_torch_and_itself() -> None:
    """Each `pip install` of the Dockerfile checks hashes, or installs torch, or the wheels that were built from the checkout."""
    installs = re.findall(
        r"pip (?:--python \S+ )?install (?:--root \S+ )?(.*?)(?: && |$)", run_lines(), flags=re.MULTILINE
    )
    unhashed = [
        install
        for install in installs
        if not install.startswith("--require-hashes --no-deps --requirement requirements-")
    ]
    assert ["torch", "torch", "dist/*.whl"] == [install.split()[-1] for install in unhashed]
    assert 6 == len(installs)
    assert "pip wheel --no-deps --no-build-isolation" in run_lines(), "a build in isolation installs unhashed tools"


@pytest.mark.parametrize(
    ("stage", "target"), [("build", "cpu"), ("build", "cuda"), ("build-tools", "tools"), ("build-tools", "tools-cuda")]
)
def test_image_holds_the_list_of_what_is_in_it(stage: str, target: str) -> None:
    """The list is checked against its schema, made after the last installation, and stands where the documentation says."""
    steps = "\n".join(stages()[stage].all("RUN"))
    made = re.search(r"cyclonedx-py environment --validate .*--output-file (\S+) /opt/venv$", steps, flags=re.MULTILINE)
    assert made is not None
    assert made.start() > steps.rindex("/opt/venv install ")
    copies = [rest.split() for rest in stages()[target].all("COPY")]
    assert [f"--from={stage}", f"/build/{made[1]}", "/usr/share/doc/scopewatch/sbom.cdx.json"] in copies


@pytest.mark.parametrize(
    ("image", "release", "built"),
    [
        (DIGEST, "1", True),
        ("python:3.11-slim-trixie", "1", False),
        ("python:3.11-slim-trixie", "", True),
        (DIGEST, "", True),
    ],
)
def test_a_release_starts_from_a_digest(image: str, release: str, built: bool) -> None:
    """The build stops, and says what to pass, when it is a release and its base image is only a tag."""
    (check,) = [rest for word, rest in dockerfile() if word == "RUN" and "RELEASE" in rest]
    environment = {"PATH": os.environ["PATH"], "PYTHON_IMAGE": image, "RELEASE": release}
    step = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert (step.returncode == 0) == built
    assert ("--build-arg PYTHON_IMAGE=python@sha256:" in step.stderr) == (not built)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"vulns": []}, 0, "1 releases looked up, 0 known"),
        (
            {"vulns": [{"id": "GHSA-1", "aliases": ["CVE-2"], "fix_versions": ["2"]}]},
            1,
            "idna==1: GHSA-1, CVE-2; mended in 2",
        ),
        ({"skip_reason": "not found"}, 2, "NOT AUDITED: 1 of 1 releases; the first: not found"),
        (None, 2, "NOT AUDITED: pip-audit has no answer"),
    ],
)
def test_an_audit_that_looked_nothing_up_fails(answer: dict | None, code: int, said: str, tmp_path: Path) -> None:
    """`make audit-dependencies` passes only when every release was looked up and nothing is known of any."""
    report = json.dumps({"dependencies": [{"name": "idna", "version": "1", **answer}]}) if answer else ""
    Path(tmp_path, "pip_audit.py").write_text(f"print({report!r}, end='')", "utf-8")
    command = [sys.executable, str(ROOT / "tools" / "audit_dependencies.py")]
    audit = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert code == audit.returncode
    assert said in audit.stdout + audit.stderr
