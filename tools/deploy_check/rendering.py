"""The manifests as Kustomize renders them, and which combinations of components there are."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from deploy_check.manifests import Manifests

DEPLOY = Path(__file__).parents[2] / "deploy"
# libyaml reads 300 kB of rules and dashboards ten times as fast, where PyYAML has it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NoKustomize(Exception):
    """Kustomize is not on this machine."""


class NotRendered(Exception):
    """Kustomize refuses a kustomization; says why in its words."""


@dataclass(frozen=True)
class Component:
    """What has to be there before a component, and what it cannot be together with."""

    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    joins: bool = False
    """Whether it has to be there wherever all that it needs is."""


COMPONENTS = {
    "models": Component(excludes=("models-fetch", "models-image", "watchlists")),
    "watchlists": Component(excludes=("models", "models-image")),
    "models-fetch": Component(needs=("watchlists",)),
    "models-image": Component(),
    "gpu": Component(),
    "tls": Component(),
    "cert-manager": Component(needs=("tls",)),
    "roles": Component(needs=("tls",)),
    "redis-tls": Component(),
    "redis-cert-manager": Component(needs=("redis-tls",)),
    "monitoring": Component(),
    "monitoring-tls": Component(needs=("monitoring", "tls"), joins=True),
    "monitoring-token": Component(needs=("monitoring", "roles"), joins=True),
    "hpa": Component(excludes=("keda",)),
    "keda": Component(),
    "gateway": Component(),
    "gateway-tls": Component(needs=("gateway", "tls"), joins=True),
    "priority": Component(),
}
"""The components that go beside each other, in the order in which an overlay names them."""


def base_from_files(deploy: Path = DEPLOY) -> Manifests:
    """The base as Kustomize would render it, without Kustomize: its files, and the ConfigMap made of settings.env."""
    folder = deploy / "base"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    objects = [
        found
        for name in kustomization["resources"]
        for found in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))
    ]
    for generator in kustomization["configMapGenerator"]:
        lines = [
            line for name in generator["envs"] for line in (folder / name).read_text(encoding="utf-8").splitlines()
        ]
        data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    for found in objects:
        if found["kind"] not in {"Namespace", "PriorityClass"}:
            found["metadata"]["namespace"] = kustomization["namespace"]
    return Manifests("base from its files", objects)


def kustomized(folder: Path, name: str = "") -> Manifests:
    """A kustomization as kubectl renders it.

    Raises:
        NoKustomize: There is no kubectl that knows Kustomize.
        NotRendered: Kustomize refuses it, or warns.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise NoKustomize("kubectl is not installed; https://kubernetes.io/docs/tasks/tools says how to get it")
    rendered = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if rendered.returncode or rendered.stderr:
        raise NotRendered(f"{name or folder}: {rendered.stderr.strip()}")
    return Manifests(name or str(folder), list(yaml.load_all(rendered.stdout, _LOADER)))


def wanted(names: Sequence[str]) -> list[str]:
    """Components with all that belongs to them, in order; nothing where two of them exclude each other."""
    chosen = set(names)
    while more := _belonging(chosen) - chosen:
        chosen |= more
    if any(chosen & set(COMPONENTS[name].excludes) for name in chosen):
        return []
    return [name for name in COMPONENTS if name in chosen]


def _belonging(chosen: set[str]) -> set[str]:
    joining = {name for name, found in COMPONENTS.items() if found.joins and chosen >= set(found.needs)}
    return joining | {need for name in chosen for need in COMPONENTS[name].needs}


def combinations() -> list[list[str]]:
    """Every component alone and every two together, with what they need; each list once."""
    pairs = [*((name,) for name in COMPONENTS), *itertools.combinations(COMPONENTS, 2)]
    return [list(one) for one in dict.fromkeys(tuple(wanted(pair)) for pair in pairs) if one]


def overlaid(names: Sequence[str], deploy: Path = DEPLOY, **fields: object) -> Manifests:
    """The base with components.

    Args:
        names: The components, in order.
        deploy: The folder of the manifests.
        fields: More of the kustomization, such as `namePrefix`.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        components = [deploy / "components" / name for name in names]
        _write(here, resources=[deploy / "base"], components=components, **{"namespace": "scopewatch", **fields})
        return kustomized(here, f"base with {', '.join(names)}")


def renamed(below: Path, deploy: Path = DEPLOY) -> Manifests:
    """A kustomization as overlays of one's own render it: with other names, in another namespace, and the rest by `names`."""
    original = below.name
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        for name, fields in {"team": {"namespace": "team"}, "copy": {"nameSuffix": "-two"}}.items():
            _write(here / name, resources=[below], namePrefix=f"{name}-", **fields)
            below = here / name
        _write(here / "named", resources=[below], components=[deploy / "components" / "names"])
        return kustomized(here / "named", f"{original} renamed")


def installations(deploy: Path = DEPLOY) -> Iterator[Manifests]:
    """Everything that there is to install: base and overlays, both renamed too, and the base with components."""
    folders = [deploy / "base", *sorted(file.parent for file in (deploy / "overlays").glob("*/kustomization.yaml"))]
    for folder in folders:
        yield kustomized(folder, str(folder.relative_to(deploy)))
        yield renamed(folder, deploy)
    for names in combinations():
        yield overlaid(names, deploy)


def _write(folder: Path, *, resources: Sequence[Path], components: Sequence[Path] = (), **fields: object) -> None:
    folder.mkdir(exist_ok=True)
    # Kustomize takes no absolute paths.
    listed = {"resources": resources, "components": components}
    paths = {key: [os.path.relpath(path, folder) for path in some] for key, some in listed.items()}
    document = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **paths, **fields}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
