"""The operator's guide: its overlays render and keep every rule, and its commands are run, or held against what they are about."""

import re
import shlex
import shutil
import subprocess
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from deploy_check.rendering import kustomized
from deploy_check.rules import mistakes
from deployed import DEPLOY, ROOT, manifests, need_kustomize
from scopewatch.cli import _parser, main

PAGES = {page: (ROOT / page).read_text(encoding="utf-8") for page in ("docs/operating.md", "deploy/README.md")}
GUIDE = PAGES["docs/operating.md"]
OTHERS = {"cd", "cp", "docker", "make", "printf"}
"""Programs, beside kubectl and scopewatch, that the pages run."""
KINDS = {"deployment": "Deployment", "service": "Service", "job": "Job", "scaledobject": "ScaledObject"}


def fences(page: str, language: str) -> list[str]:
    """The code of a page in one language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def commands(page: str) -> list[list[str]]:
    """The commands of a page's shell code and of its text, as words; of pipes and lists each, without what is redirected."""
    lines = [line for code in fences(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(kubectl [a-z]+ [^`]+)`", page)
    parts = [part for line in lines if line and not line.startswith("#") for part in re.split(r" \| | && ", line)]
    plain = [
        re.sub(r"<\([^)]*\)", "FILE", re.sub(r"&$", "", part)).partition(" > ")[0].partition(" < ")[0] for part in parts
    ]
    split = [shlex.split(part) for part in plain]
    return [[word for i, word in enumerate(words) if i or not re.fullmatch(r"\w+=\w+", word)] for words in split]


OF_KUBECTL = {" ".join(words): words for page in PAGES.values() for words in commands(page) if words[0] == "kubectl"}
OF_SCOPEWATCH = {
    " ".join(words): words for page in PAGES.values() for words in commands(page) if words[0] == "scopewatch"
}
OVERLAYS = [code for code in fences(GUIDE, "yaml") if "kind: Kustomization" in code]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with the checkout `scopewatch` in it, and `my-cluster` with the files that overlays name."""
    (tmp_path / "scopewatch").mkdir()
    shutil.copytree(DEPLOY, tmp_path / "scopewatch" / "deploy")
    (tmp_path / "my-cluster").mkdir()
    shutil.copy(DEPLOY / "watchlists" / "gemma-2-2b-it-refusal.yaml", tmp_path / "my-cluster" / "watchlist.yaml")
    (tmp_path / "my-cluster" / "models.sha256").write_text(f"{'0' * 64}  a\n")
    return tmp_path


@pytest.mark.parametrize("code", OVERLAYS, ids=range(len(OVERLAYS)))
def test_overlays_of_the_guide_keep_every_rule(beside: Path, code: str) -> None:
    """Each is what a reader pastes: in the folder that its first line names, beside the checkout; `names` around the one before."""
    need_kustomize()
    named = beside / code.partition("\n")[0].removeprefix("# ")
    if not (beside / "my-cluster" / "kustomization.yaml").exists():
        (beside / "my-cluster" / "kustomization.yaml").write_text(
            OVERLAYS[0].replace("namespace: scopewatch", "namespace: team")
        )
    named.parent.mkdir(exist_ok=True)
    named.write_text(code)
    rendered = kustomized(named.parent)
    if "namePrefix" in code:
        rendered = kustomized(_around(named.parent))
    assert [] == mistakes(rendered)


def _around(folder: Path) -> Path:
    """The guide's kustomization with `names` around one."""
    (code,) = [code for code in OVERLAYS if "components/names" in code]
    named = folder.with_name("my-cluster-named")
    named.mkdir()
    (named / "kustomization.yaml").write_text(code)
    return named


def test_an_immutable_watchlist_rolls_the_pods(beside: Path) -> None:
    """With the guide's lines pods and Job mount a ConfigMap whose name follows its content."""
    need_kustomize()
    (more,) = [yaml.safe_load(code) for code in fences(GUIDE, "yaml") if "immutable: true" in code]
    document = yaml.safe_load(OVERLAYS[0]) | more
    (beside / "my-cluster" / "kustomization.yaml").write_text(yaml.safe_dump(document))
    rendered = kustomized(beside / "my-cluster")
    assert [] == mistakes(rendered)
    mounted = {w.volumes["watchlists"]["configMap"]["name"] for w in rendered.workloads if "watchlists" in w.volumes}
    (name,) = mounted
    assert re.fullmatch(r"watchlists-by-content-\w{10}", name)
    assert rendered.named("ConfigMap")[name]["immutable"] is True


def test_every_command_is_of_a_program_that_is_known() -> None:
    """No page runs anything that no test here looks at, and `make` has the targets."""
    for page in PAGES.values():
        for words in commands(page):
            assert words[0] in {"kubectl", "scopewatch", *OTHERS} or words[0].endswith("bin/python"), words
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", sorted(OF_SCOPEWATCH))
def test_commands_of_scopewatch_are_there(command: str) -> None:
    """The program knows each command with its flags."""
    words = OF_SCOPEWATCH[command]
    assert _parser().parse_args(words[1:]).run


RUN = ("scopewatch plan --pairs-per-s 200", "scopewatch watchlist check", "scopewatch token")


@pytest.mark.parametrize("command", sorted(one for one in OF_SCOPEWATCH if one.startswith(RUN)))
def test_commands_that_need_no_cluster_work(
    command: str, beside: Path, monkeypatch: pytest.MonkeyPatch, logging_as_it_was: None
) -> None:
    """Plans, checks and tokens come out as the guide says; `models` has tests of its own, with a hub."""
    monkeypatch.chdir(beside)
    digest = f"sha256:{'0' * 64}"
    caller = {"name": "prometheus", "tokens": [digest], "roles": ["metrics"]}
    Path("roles.yaml").write_text(yaml.safe_dump({"version": 1, "callers": [caller]}))
    with pytest.raises(SystemExit) as left:
        main(OF_SCOPEWATCH[command][1:])
    assert not left.value.code


@cache
def _told(*words: str) -> str:
    return subprocess.run(["kubectl", *words], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("command", sorted(OF_KUBECTL))
def test_commands_of_kubectl_fit_kubectl_and_the_manifests(command: str) -> None:
    """kubectl knows the flags, and the objects are ones that the production overlay or the base's namespace has."""
    need_kustomize()
    words = OF_KUBECTL[command]
    verb = words[1:3] if words[1] in {"rollout", "create"} else words[1:2]
    verb = words[1:4] if words[1:3] == ["create", "secret"] else verb
    known = _told(*verb, "--help") + _told("options")
    for flag in [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]:
        assert re.search(rf"(^|[\s,]){re.escape(flag)}[=,\s]", known), f"{flag} is unknown to kubectl {' '.join(verb)}"
    there = {(found["kind"], found["metadata"]["name"]) for found in manifests("production").objects}
    there |= {("HorizontalPodAutoscaler", "scopewatch")}
    kinds = {**KINDS, "hpa": "HorizontalPodAutoscaler"}
    pairs = [word.split("/") for word in words if "/" in word and word.partition("/")[0] in kinds]
    pairs += [[kind, name] for kind, name in pairwise(words) if kind in kinds]
    assert {(kinds[kind], name) for kind, name in pairs} <= there
    for folder in [word for flag, word in pairwise(words) if flag in {"-f", "-k"}]:
        assert folder == "my-cluster" or (ROOT / folder).exists()


def test_every_secret_that_production_wants_is_made() -> None:
    """The guide makes each of them with the keys that pods and the PodMonitor read, but for those that cert-manager makes."""
    production = manifests("production")
    volumes = [
        volume["secret"]
        for workload in production.workloads
        for volume in workload.volumes.values()
        if "secret" in volume
    ]
    wanted = {(one["secretName"], item["key"]) for one in volumes for item in one["items"]}
    (monitor,) = production.kind("PodMonitor")
    credentials = monitor["spec"]["podMetricsEndpoints"][0]["authorization"]["credentials"]
    wanted |= {(credentials["name"], credentials["key"])}
    signed = {found["spec"]["secretName"] for found in production.kind("Certificate")}
    made = [words for words in commands(GUIDE) if words[:4] == ["kubectl", "create", "secret", "generic"]]
    keys = {
        (w[4], word.removeprefix("--from-file=").partition("=")[0]) for w in made for word in w if "--from-file" in word
    }
    assert {(name, key) for name, key in wanted if name not in signed} == keys


def test_the_table_of_components_is_whole() -> None:
    """The guide's table has every component that there is, and no other."""
    (table,) = re.findall(r"^## The components\n(.*?)\n\n[^|\n]", GUIDE, flags=re.DOTALL | re.MULTILINE)
    named = {name for row in table.splitlines()[3:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    assert {file.parent.name for file in DEPLOY.glob("components/*/kustomization.yaml")} == named
