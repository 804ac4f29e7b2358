"""The image's definition, checked without building anything; `make image-check` builds it and tries it."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import scopewatch
from dockerfile import ROOT, copied, dockerfile, environment, last, stages, whole
from scopewatch.cli import _parser
from scopewatch.cli.settings import settings
from scopewatch.config import ENV_PREFIX, load_config
from scopewatch.errors import ConfigError

TARGETS = ["cpu", "cuda", "tools", "tools-cuda"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGES = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "deploy").rglob("*.md")]


def test_every_stage_starts_from_a_named_release() -> None:
    """All stages start from one Debian image of a Python that the program supports, never from `latest`."""
    arguments = dict(rest.split("=", 1) for word, rest in dockerfile() if word == "ARG" and "=" in rest)
    named = stages()
    assert {"${PYTHON_IMAGE}"} == {stage.base for stage in named.values() if stage.base not in named}
    python = re.fullmatch(r"python:3\.(\d+)-slim-\w+", arguments["PYTHON_IMAGE"])
    assert python is not None
    assert int(python[1]) >= 11


def test_without_a_target_the_small_one_is_built() -> None:
    """The last stage, which a build makes when it is asked for none, adds nothing to `cpu`."""
    final = list(stages().values())[-1]
    assert ("", "cpu", []) == (final.name, final.base, final.instructions)


def test_tools_are_the_image_that_serves_and_a_layer_more() -> None:
    """Whoever has the image that serves pulls one more layer for the tools, and the list of what is in it."""
    for target in ("cpu", "cuda"):
        tools = stages()["tools" if target == "cpu" else "tools-cuda"]
        assert target == tools.base
        assert {"COPY"} == {word for word, _ in tools.instructions}
        assert ["/layers/tools", "/build/sbom.cdx.json"] == [rest.split()[1] for rest in tools.all("COPY")]


def test_images_differ_in_device_alone() -> None:
    """Both that serve have the same parts in the same order, the ones that change least at the bottom."""
    parts = [stages()[target].all("COPY") for target in ("cpu", "cuda")]
    assert parts[0] == parts[1]
    assert ["torch", "libraries", "program"] == re.findall(r"/layers/(\w+)", " ".join(parts[0]))


@pytest.mark.parametrize("target", TARGETS)
def test_image_does_not_run_as_root(target: str) -> None:
    """The image's user is a number other than 0, and the one the Deployment runs it as."""
    deployment = yaml.safe_load((ROOT / "deploy" / "base" / "deployment.yaml").read_text("utf-8"))
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == last(target, "USER")
    assert context["runAsUser"] > 0


@pytest.mark.parametrize("target", TARGETS)
def test_image_starts_the_program_without_a_shell(target: str) -> None:
    """Signals reach the program: entry point and command are in exec form, and together a `serve` it parses."""
    entry, command = json.loads(last(target, "ENTRYPOINT")), json.loads(last(target, "CMD"))
    assert list(PROJECT["scripts"]) == entry
    assert "scopewatch.cli.serve" == _parser().parse_args(command).run.__module__


def test_image_listens_outside_the_container() -> None:
    """The image's settings name every interface and the ports it exposes; plaintext there is for its user to choose."""
    settings = {name: value for name, value in environment("cpu").items() if name.startswith(ENV_PREFIX)}
    with pytest.raises(ConfigError, match="plaintext"):
        load_config(environ=settings)
    config = load_config({"insecure": True}, environ=settings)
    exposed = last("cpu", "EXPOSE").split()
    assert [f"0.0.0.0:{port}" for port in exposed] == [config.grpc_address, config.metrics_address]


@pytest.mark.parametrize("target", TARGETS)
def test_image_stays_offline_and_writes_only_to_tmp(target: str) -> None:
    """Nothing is fetched at run time, and what libraries cache goes where a read-only container can write."""
    variables = environment(target)
    assert ("1", "/tmp") == (variables["HF_HUB_OFFLINE"], variables["HOME"])


def test_a_compiler_is_where_kernels_are_compiled() -> None:
    """Triton needs a C compiler; on a CPU nothing is compiled, and what is not there cannot be misused."""
    assert ["cuda", "tools-cuda"] == [
        target for target in TARGETS if any("gcc" in rest for word, rest in whole(target) if word == "RUN")
    ]


def test_image_says_which_version_it_is() -> None:
    """The image's label, the package, the client and the changelog agree on the version."""
    labels = " ".join(rest for word, rest in whole("cpu") if word == "LABEL")
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text("utf-8"))["project"]
    assert f'image.version="{PROJECT["version"]}"' in labels
    assert f'image.licenses="{PROJECT["license"]}"' in labels
    assert PROJECT["version"] == scopewatch.__version__ == client["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_build_context_holds_what_is_copied() -> None:
    """Everything the build copies is in the checkout, and .dockerignore lets in exactly that."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    assert "*" == ignored[0]
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    assert [] == [source for source in copied() if not (ROOT / source).exists()]


def test_an_index_s_password_stays_out_of_the_image() -> None:
    """Indexes are known to the build stages alone, where pip's file is a secret in every step that installs from one."""
    shipped = [rest for target in TARGETS for _, rest in whole(target)]
    assert [] == [rest for rest in shipped if "PIP_INDEX_URL" in rest or "/opt/tools/bin/pip" in rest]
    installs = [
        rest for word, rest in dockerfile() if word == "RUN" and re.search(r"requirements-|TORCH_INDEX_URL:", rest)
    ]
    assert 3 == len(installs)
    assert all("--mount=type=secret,id=pip.conf,target=/etc/pip.conf,required=false" in rest for rest in installs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_the_dockerfile_has(page: Path) -> None:
    """Every target and every build argument that a page names for `docker build` is one of the Dockerfile's."""
    arguments = {rest.partition("=")[0] for word, rest in dockerfile() if word == "ARG"}
    commands = re.findall(r"(?:docker|podman|buildah) bu(?:ild|d) ((?:[^\n`]*\\\n)*[^\n`]*)", page.read_text("utf-8"))
    for command in commands:
        assert {*re.findall(r"--target[ =](\S+)", command)} <= set(TARGETS), command
        assert {*re.findall(r"--build-arg[ =](\w+)", command)} <= arguments, command


def test_hadolint_has_no_remark() -> None:
    """The linter for Dockerfiles finds nothing but what a comment excuses where it stands."""
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("hadolint is not installed: its package is for Linux on x86-64 and ARM 64")
    lint = subprocess.run(
        [hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (0, "") == (lint.returncode, lint.stdout)


def test_constraints_leave_the_build_of_torch_open() -> None:
    """One constraints file serves CPU and CUDA images: torch is pinned to a release, without a build suffix."""
    (pin,) = re.findall(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert "" == pin.partition("+")[2]


def test_a_container_s_first_process_ends_on_sigterm() -> None:
    """Process 1 gets no signal that it does not ask for: an offline command asks for SIGTERM, and ends with 143."""
    namespace = ["unshare", "--fork", "--pid", "--kill-child"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no process namespace can be made here")
    waits = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    script = f"import scopewatch.__main__ as program, scopewatch.cli as cli; cli.main = lambda: exec({waits!r}); program.main()"
    process = subprocess.Popen(
        [*namespace, sys.executable, "-c", script, "evaluate"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "1\n" == process.stdout.readline()
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
        subprocess.run(["kill", "-TERM", child], check=True)
        assert 128 + signal.SIGTERM == process.wait(timeout=20)
    finally:
        process.kill()
        process.communicate()


def test_offline_commands_are_not_held_to_the_addresses_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the image every command sees the addresses that `serve` listens on; those that listen on none run all the same."""
    for name, value in environment("cpu").items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, value)
    for command in (
        ["scan", "pairs.jsonl", "--out", "scored.jsonl"],
        ["demo"],
        ["evaluate", "x.jsonl", "--indicator", "x"],
    ):
        assert settings(_parser().parse_args(command)).in_the_clear == ()
    with pytest.raises(ConfigError, match="plaintext"):
        settings(_parser().parse_args(["serve"]), serves=True)
