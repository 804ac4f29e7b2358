"""Objects by themselves, and the names by which they refer to each other."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import kubernetes_validate
from kubernetes_validate.utils import SchemaNotFoundError, ValidationError

from deploy_check.manifests import Manifests, Workload, place
from deploy_check.mistakes import Mistake

KUBERNETES = "1.37"
CLUSTER_WIDE = {"Namespace", "PriorityClass"}
MAX_CONFIG_MAP_BYTES = 1 << 20
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def fits_the_kubernetes_schema(manifests: Manifests) -> Iterator[Mistake]:
    """Kubernetes knows every field that is written, and every value has the type it wants; other kinds: `crds`."""
    for found in manifests.objects:
        if what := _against_schema(json.dumps(found, sort_keys=True)):
            yield Mistake(place(found), what, f"see its reference of Kubernetes {KUBERNETES}")


@cache
def _against_schema(text: str) -> str:
    """What is wrong with an object in JSON; asked once of each, for the schemas are read from files every time."""
    try:
        kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    except SchemaNotFoundError:
        return ""
    except ValidationError as error:
        return f"{error.message} (at {'.'.join(map(str, error.path))})"
    return ""


def names_are_valid_and_used_once(manifests: Manifests) -> Iterator[Mistake]:
    """Every object's name is a DNS label, and no two objects of a kind share one."""
    for found in manifests.objects:
        if not _LABEL.fullmatch(found["metadata"]["name"]):
            yield Mistake(place(found), "is no name", "write at most 63 lower-case letters, digits and hyphens")
    for name, times in Counter(map(place, manifests.objects)).items():
        if times > 1:
            yield Mistake(name, f"is there {times} times", "rename all but one")


def namespaces_agree(manifests: Manifests) -> Iterator[Mistake]:
    """Everything that has a namespace is in the one that is applied with it."""
    wanted = [found["metadata"]["name"] for found in manifests.kind("Namespace")]
    for found in manifests.objects:
        if found["kind"] not in CLUSTER_WIDE and [found["metadata"].get("namespace")] != wanted:
            mend = f"set `namespace: {wanted[0]}` in the kustomization" if wanted else "apply a Namespace"
            yield Mistake(place(found), f"is in the namespace {found['metadata'].get('namespace')}", mend)
    for namespace in manifests.kind("Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            mend = "label it pod-security.kubernetes.io/enforce: restricted"
            yield Mistake(place(namespace), "does not refuse pods that are not restricted", mend)


def references_exist(manifests: Manifests) -> Iterator[Mistake]:
    """ConfigMaps, accounts and priorities that pods name are applied with them; claims and secrets are the cluster's."""
    there = {kind: set(manifests.named(kind)) for kind in ("ConfigMap", "ServiceAccount", "PriorityClass")}
    for workload in manifests.workloads:
        for kind, name in _named(workload):
            if name not in there[kind]:
                what = f"names the {kind} {name}, which is not applied"
                yield Mistake(workload.where, what, f"there is {', '.join(sorted(there[kind])) or 'none'}")
        yield from _keys(manifests, workload)


def _named(workload: Workload) -> Iterator[tuple[str, str]]:
    pod = workload.pod
    yield "ServiceAccount", pod.get("serviceAccountName", "")
    if priority := pod.get("priorityClassName"):
        yield "PriorityClass", priority
    for volume in workload.volumes.values():
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for container in workload.containers:
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"]


def _keys(manifests: Manifests, workload: Workload) -> Iterator[Mistake]:
    maps = manifests.named("ConfigMap")
    for name, volume in workload.volumes.items():
        source = volume.get("configMap", {})
        for item in source.get("items", ()):
            held = maps.get(source["name"], {}).get("data", {})
            if source["name"] in maps and item["key"] not in held:
                what = f"wants the key {item['key']}, which ConfigMap/{source['name']} lacks"
                yield Mistake(f"{workload.where} volume {name}", what, f"it has {', '.join(held)}")


def config_maps_are_small_enough(manifests: Manifests) -> Iterator[Mistake]:
    """The API server takes ConfigMaps of up to 1 MiB."""
    for found in manifests.kind("ConfigMap"):
        size = len(json.dumps(found.get("data", {}), ensure_ascii=False).encode())
        if size > MAX_CONFIG_MAP_BYTES:
            yield Mistake(place(found), f"holds {size} bytes", f"split it; {MAX_CONFIG_MAP_BYTES} are taken")
