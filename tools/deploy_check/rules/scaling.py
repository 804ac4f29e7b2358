"""How many pods there are, and who decides."""

import re
from collections.abc import Iterator

from deploy_check.manifests import Manifests, place
from deploy_check.mistakes import Mistake

AUTOSCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


def autoscalers_own_the_number(manifests: Manifests) -> Iterator[Mistake]:
    """An autoscaler scales a Deployment that is there, alone, and the Deployment names no number of its own."""
    targets = [(found, found["spec"]["scaleTargetRef"]["name"]) for found in manifests.kind(*AUTOSCALERS)]
    deployments = manifests.named("Deployment")
    for autoscaler, name in targets:
        if name not in deployments:
            what = f"scales the Deployment {name}, which is not applied"
            yield Mistake(place(autoscaler), what, f"there is {', '.join(deployments)}")
        elif "replicas" in deployments[name]["spec"]:
            what = f"has a number of replicas, which {place(autoscaler)} decides"
            yield Mistake(f"Deployment/{name}", what, "remove spec.replicas")
    if len(targets) > 1:
        told = ", ".join(place(found) for found, _ in targets)
        yield Mistake(told, "decide about the same pods", "keep one of the components hpa and keda")
    if not targets and "replicas" not in manifests.server.fields["spec"]:
        yield Mistake(manifests.server.where, "has no number of replicas", "set spec.replicas, or add keda or hpa")


def queries_ask_for_their_namespace(manifests: Manifests) -> Iterator[Mistake]:
    """What an autoscaler asks Prometheus for counts the pods of its own namespace."""
    for scaled in manifests.kind("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            asked = re.findall(r'namespace="([^"]*)"', trigger["metadata"].get("query", ""))
            if asked != [scaled["metadata"].get("namespace")]:
                what = f"counts the namespace {', '.join(asked) or 'of anybody'}"
                mend = f"write {scaled['metadata'].get('namespace')}, or put components/names around the kustomization"
                yield Mistake(place(scaled), what, mend)


def disruptions_are_bounded(manifests: Manifests) -> Iterator[Mistake]:
    """A node that is drained takes one server at a time, and is not held up by one that is broken anyway."""
    budgets = [
        found["spec"]
        for found in manifests.kind("PodDisruptionBudget")
        if manifests.server in manifests.selected(found["spec"]["selector"]["matchLabels"])
    ]
    kept = [(one.get("maxUnavailable"), one.get("unhealthyPodEvictionPolicy")) for one in budgets]
    if kept != [(1, "AlwaysAllow")]:
        mend = "keep one with maxUnavailable: 1 and unhealthyPodEvictionPolicy: AlwaysAllow"
        yield Mistake("PodDisruptionBudget", f"the server's say {kept}", mend)
    spread = [one["topologyKey"] for one in manifests.server.pod.get("topologySpreadConstraints", ())]
    if spread != ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]:
        yield Mistake(manifests.server.where, f"is spread over {spread}", "spread it over zones and nodes")
