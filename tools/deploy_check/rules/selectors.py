"""What is found by labels, and the ports that are found by name."""

import re
from collections.abc import Iterator

from deploy_check.manifests import Fields, Manifests, Workload, place
from deploy_check.mistakes import Mistake

_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def selectors_find_their_pods(manifests: Manifests) -> Iterator[Mistake]:
    """Every selector selects exactly the pods it is about."""
    for where, labels in _selectors(manifests):
        found = [workload.where for workload in manifests.selected(labels)]
        if len(found) != 1:
            told = ", ".join(found) or "no pods"
            yield Mistake(where, f"selects {told} by {labels}", "give it the labels of the one workload it is about")
    for workload in manifests.workloads:
        selector = workload.fields["spec"].get("selector", {}).get("matchLabels", {})
        if not selector.items() <= workload.labels.items():
            what = f"selects {selector}, its own pods have {workload.labels}"
            yield Mistake(workload.where, what, "write the same labels in both")


def _selectors(manifests: Manifests) -> Iterator[tuple[str, dict[str, str]]]:
    for service in manifests.kind("Service"):
        yield place(service), service["spec"]["selector"]
    for found in manifests.kind("PodDisruptionBudget", "PodMonitor"):
        yield place(found), found["spec"]["selector"]["matchLabels"]
    for policy in manifests.kind("NetworkPolicy"):
        if labels := policy["spec"]["podSelector"].get("matchLabels"):
            yield place(policy), labels
        yield from _peers(place(policy), policy["spec"])
    for workload in manifests.workloads:
        for constraint in workload.pod.get("topologySpreadConstraints", ()):
            where = f"{workload.where} topologySpreadConstraints {constraint['topologyKey']}"
            yield where, constraint["labelSelector"]["matchLabels"]


def _peers(where: str, policy: Fields) -> Iterator[tuple[str, dict[str, str]]]:
    """Pods of this namespace that a policy lets in or out."""
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in policy.get(direction, ()):
            for peer in rule.get(side, ()):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield f"{where} {direction}", peer["podSelector"].get("matchLabels", {})


def ports_are_named(manifests: Manifests) -> Iterator[Mistake]:
    """Names of ports are short and unique in a pod, and no port of the node is taken."""
    for workload in manifests.workloads:
        seen: set[object] = set()
        for container in workload.containers:
            for port in container.get("ports", ()):
                where = workload.at(container, f"port {port.get('name', port['containerPort'])}")
                if not _PORT_NAME.fullmatch(port.get("name", "")):
                    yield Mistake(where, "has no good name", "write at most 15 lower-case letters, digits and hyphens")
                if {port.get("name"), port["containerPort"]} & seen:
                    yield Mistake(where, "is there twice", "rename or remove one")
                if "hostPort" in port:
                    yield Mistake(where, "takes a port of the node", "remove hostPort, a Service leads there")
                seen |= {port.get("name"), port["containerPort"]}


def ports_lead_to_containers(manifests: Manifests) -> Iterator[Mistake]:
    """Every Service, scrape and probe leads to a port that a container declares."""
    for service in manifests.kind("Service"):
        for workload in manifests.selected(service["spec"]["selector"]):
            for port in service["spec"]["ports"]:
                declared = ports_of(workload)
                target = port.get("targetPort", port["port"])
                if port["port"] != declared.get(target, target if target in declared.values() else None):
                    what = f"leads {port['port']} to {target}, which {workload.where} does not have at this number"
                    yield Mistake(f"{place(service)} port {port['name']}", what, f"it has {declared}")
    for monitor in manifests.kind("PodMonitor"):
        for workload in manifests.selected(monitor["spec"]["selector"]["matchLabels"]):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in ports_of(workload):
                    what = f"scrapes the port {endpoint['port']}, which {workload.where} does not have"
                    yield Mistake(place(monitor), what, f"it has {ports_of(workload)}")
    for workload in manifests.workloads:
        for container in workload.containers:
            for probe in PROBES:
                for check in container.get(probe, {}).values():
                    port = check.get("port") if isinstance(check, dict) else None
                    if port is not None and port not in {*ports_of(workload), *ports_of(workload).values()}:
                        what = f"asks the port {port}, which no container declares"
                        yield Mistake(workload.at(container, probe), what, f"declare it; there is {ports_of(workload)}")


def ports_of(workload: Workload) -> dict[str, int]:
    """The ports that a workload's containers declare, by name."""
    return {port["name"]: port["containerPort"] for c in workload.containers for port in c.get("ports", ())}
