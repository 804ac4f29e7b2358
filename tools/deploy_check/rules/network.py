"""Who may connect to whom."""

from collections.abc import Iterator, Sequence

from deploy_check.manifests import Fields, Manifests, Workload, place
from deploy_check.mistakes import Mistake
from deploy_check.rules.selectors import ports_of

DNS_PORT = 53
HTTPS_PORT = 443
PRIVATE_NETWORKS = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
SIDES = (("ingress", "from"), ("egress", "to"))


def everything_is_denied_first(manifests: Manifests) -> Iterator[Mistake]:
    """Nothing in the namespace talks to anybody unless a policy allows it, and every policy speaks of both directions."""
    denied = [found["spec"] for found in manifests.kind("NetworkPolicy") if not found["spec"]["podSelector"]]
    if denied != [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]:
        yield Mistake("NetworkPolicy", "none denies everything", "keep one with an empty podSelector and no rules")
    for policy in manifests.kind("NetworkPolicy"):
        if policy["spec"].get("policyTypes") != ["Ingress", "Egress"]:
            yield Mistake(place(policy), "leaves a direction open", "set policyTypes: [Ingress, Egress]")


def policies_open_only_what_is_needed(manifests: Manifests) -> Iterator[Mistake]:
    """Each rule names ports that are there and peers that have labels; only a Job may reach addresses outside."""
    for policy in manifests.kind("NetworkPolicy"):
        workloads = manifests.selected(policy["spec"]["podSelector"].get("matchLabels", {}))
        for direction, side in SIDES:
            for rule in policy["spec"].get(direction, ()):
                where = f"{place(policy)} {direction}"
                if not rule.get(side) or not rule.get("ports"):
                    yield Mistake(where, "lets everybody in or out, or through every port", "name peers and ports")
                    continue
                allowed = _ports(manifests, workloads, direction)
                for number in [port["port"] for port in rule["ports"] if port["port"] not in allowed]:
                    yield Mistake(where, f"opens {number}", f"open only {sorted(allowed)}")
                outside = direction == "egress" and all(w.fields["kind"] == "Job" for w in workloads)
                for peer in rule[side]:
                    yield from _peer(where, peer, outside=outside)


def _ports(manifests: Manifests, workloads: Sequence[Workload], direction: str) -> set[int]:
    if direction == "ingress":
        # The port that tells health alone is for the kubelet, which no policy keeps out.
        return {number for w in workloads for name, number in ports_of(w).items() if name != "health"}
    if any(workload.fields["kind"] == "Job" for workload in workloads):
        return {DNS_PORT, HTTPS_PORT}
    return {DNS_PORT, *ports_of(manifests.cache).values()}


def _peer(where: str, peer: Fields, *, outside: bool) -> Iterator[Mistake]:
    block = peer.get("ipBlock")
    if block is None:
        if not all(selector.get("matchLabels") for selector in peer.values()):
            yield Mistake(where, f"names no labels in {peer}", "say whom it means")
    elif not outside:
        yield Mistake(where, f"lets {block['cidr']} in or out", "only the Job that fetches weights goes outside")
    elif ":" not in block["cidr"] and not set(block.get("except", ())) >= PRIVATE_NETWORKS:
        what = "reaches private addresses, the cluster's and the node's metadata too"
        yield Mistake(where, what, f"except {', '.join(sorted(PRIVATE_NETWORKS))}")


def routes_lead_to_services(manifests: Manifests) -> Iterator[Mistake]:
    """Every route of a Gateway leads to a Service and a port that it has, and what secures it is about a Service too."""
    services = manifests.named("Service")
    for route in manifests.kind("GRPCRoute"):
        for backend in [ref for rule in route["spec"]["rules"] for ref in rule["backendRefs"]]:
            there = [port["port"] for port in services.get(backend["name"], {}).get("spec", {}).get("ports", ())]
            if backend["port"] not in there:
                what = f"leads to {backend['name']}:{backend['port']}, which no Service has"
                yield Mistake(place(route), what, f"there is {', '.join(services)}")
    for policy in manifests.kind("BackendTLSPolicy"):
        for target in policy["spec"]["targetRefs"]:
            if target["name"] not in services:
                yield Mistake(
                    place(policy), f"is about the Service {target['name']}", f"there is {', '.join(services)}"
                )
