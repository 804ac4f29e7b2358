"""A scan on Ray: the numbers of one process, whatever becomes of its workers."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import House, wait_until
from deploy_check.manifests import Manifests
from deploy_check.rules.objects import fits_the_kubernetes_schema
from deploy_check.rules.pods import (
    environment_has_no_duplicates,
    images_name_a_release,
    memory_is_reserved_in_full,
    mounts_have_their_volumes,
    pods_are_restricted,
    service_links_are_off,
)
from scopewatch.cli import _parser, main
from scopewatch.lifecycle.out import Out

pytestmark = [pytest.mark.usefixtures("logging_as_it_was"), pytest.mark.timeout(600)]


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert code == left.value.code


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def scoring_workers(pid: int) -> list[int]:
    """The actors of a scan that hold an engine."""
    found = []
    for process in descendants(pid):
        try:
            title = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::MapWorker"):
            found.append(process)
    return found


def test_it_equals_one_process_though_a_worker_is_killed_and_the_scan_is_stopped(house: House, tmp_path: Path) -> None:
    """Two files on two workers, of which one is killed while they score; then the whole scan is stopped, and goes on.
    The result has the bytes of a scan in one process; a row that cannot be read keeps its place.
    """
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, file in enumerate(files):
        rows = [json.dumps({"response": f"It may rain {count} times." * (count % 7 + 1)}) for count in range(150)]
        file.write_text("\n".join([*rows[: 40 * number], "{", *rows]) + "\n")
    command = ["scan", *map(str, files), "--watchlist", str(house.watchlist), "--part-rows", "4", "--out"]
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    on_ray = [sys.executable, "-m", "scopewatch", *command, str(out), "--ray", "--workers", "2"]

    def parts() -> int:
        return len(list(Out(out).parts.glob("*/part-*.jsonl")))

    scanning = subprocess.Popen(on_ray, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: parts() > 2 or scanning.poll() is not None, "no part was finished", 300)
        before = scoring_workers(scanning.pid)
        os.kill(before[0], signal.SIGKILL)
        so_far = parts()
        wait_until(lambda: parts() > so_far + 2 or scanning.poll() is not None, "the scan stands still", 300)
        scanning.terminate()
        _, err = scanning.communicate(timeout=120)
    finally:
        scanning.kill()
    assert (143, "Traceback" in err) == (scanning.returncode, False), err
    assert f"scopewatch: stopped; the same command goes on with {Out(out).parts}" in err
    assert len(before) == 2
    assert not out.exists()

    done = subprocess.run(on_ray, capture_output=True, text=True, check=False, timeout=400)
    run(*command, whole, code=3)
    assert 3 == done.returncode, done.stderr
    assert whole.read_bytes() == out.read_bytes()
    assert 342 == len(out.read_text().splitlines())


def test_without_ray_the_extra_is_named(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray is no part of the program: where it is not installed, the command says what to install."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"response": "a"}\n')
    monkeypatch.setitem(sys.modules, "ray", None)
    run("scan", data, "--out", tmp_path / "out.jsonl", "--watchlist", house.watchlist, "--ray", code=2)
    assert "--ray: Ray is not installed; pip install 'scopewatch[ray]'" in capsys.readouterr().err


def test_the_job_for_a_cluster_runs_a_scan_in_pods_as_restricted_as_the_others() -> None:
    """What KubeRay starts is a command that the program has, in pods that fit Kubernetes' schema and our rules."""
    job = yaml.safe_load((Path(__file__).parents[1] / "deploy/ray/rayjob.yaml").read_text("utf-8"))
    cluster = job["spec"]["rayClusterSpec"]
    program, *words = shlex.split(job["spec"]["entrypoint"])
    asked = _parser().parse_args(words)
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    pods = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"pod-{number}", "namespace": "scopewatch"},
        }
        | {"spec": {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}}
        for number, template in enumerate(templates)
    ]
    manifests = Manifests("rayjob", pods)
    rules = (fits_the_kubernetes_schema, pods_are_restricted, mounts_have_their_volumes, environment_has_no_duplicates)
    rules += (memory_is_reserved_in_full, images_name_a_release, service_links_are_off)

    assert ("scopewatch", "auto", len(templates) - 1) == (program, asked.ray, len(cluster["workerGroupSpecs"]))
    assert [] == [str(found) for rule in rules for found in rule(manifests)]


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:1", "Connection refused"), ("nowhere", "expected host:port")]
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, said: str
) -> None:
    """An address that nobody answers at, or that is none, is one line."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"response": "a"}\n')
    run("scan", data, "--out", tmp_path / "out.jsonl", "--watchlist", house.watchlist, "--ray", address, code=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scopewatch: ")]
    assert line.startswith(f"scopewatch: --ray {address}: ")
    assert said in line
