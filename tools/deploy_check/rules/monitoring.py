"""Metrics: who scrapes them, and whether those that are asked for exist."""

import re
from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry

from deploy_check.manifests import Manifests, place
from deploy_check.mistakes import Mistake
from deploy_check.rules.program import settings_of
from scopewatch.metrics import Metrics

_METRIC = re.compile(r"(?<![\w:])((?:scopewatch|grpc_server)_\w+)(?![\w:])")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


@cache
def exported() -> frozenset[str]:
    """The names of all series that the program exports, those of canaries too, which come with their first run."""
    registry = CollectorRegistry()
    Metrics(registry).canaries.judged(True, {})
    return frozenset(f"{f.name}{end}" for f in registry.collect() for end in _SUFFIXES.get(f.type, ("",)))


def metrics_are_exported(manifests: Manifests) -> Iterator[Mistake]:
    """Every metric that an autoscaler or a rule asks for is one that the program exports."""
    for where, expression in _expressions(manifests):
        for name in sorted(set(_METRIC.findall(re.sub(r'"[^"]*"', '""', expression))) - exported()):
            yield Mistake(where, f"asks for {name}, which the program does not export", "see docs/metrics.md")


def _expressions(manifests: Manifests) -> Iterator[tuple[str, str]]:
    for scaled in manifests.kind("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            yield place(scaled), trigger["metadata"].get("query", "")
    for autoscaler in manifests.kind("HorizontalPodAutoscaler"):
        for metric in autoscaler["spec"]["metrics"]:
            yield place(autoscaler), metric.get("pods", {}).get("metric", {}).get("name", "")
    for found in manifests.kind("PrometheusRule"):
        for group in found["spec"]["groups"]:
            for rule in group["rules"]:
                yield f"{place(found)} {rule.get('record') or rule.get('alert')}", str(rule["expr"])


def scrapes_speak_as_the_server_does(manifests: Manifests) -> Iterator[Mistake]:
    """Prometheus scrapes over TLS where the server speaks it, with a token where there are roles, and each pod once."""
    if (config := settings_of(manifests)) is None:
        return
    annotations = manifests.server.template["metadata"].get("annotations", {})
    for monitor in manifests.kind("PodMonitor"):
        if "prometheus.io/scrape" in annotations:
            what = "is scraped by annotations and by the PodMonitor"
            yield Mistake(manifests.server.where, what, "remove the annotations")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for part, on, component in (
                ("scheme", bool(config.tls_cert), "monitoring-tls"),
                ("authorization", bool(config.roles), "monitoring-token"),
            ):
                if on != (endpoint.get(part, "http") != "http"):
                    what = f"has {'no ' if on else ''}{part}, and the server wants {'it' if on else 'none'}"
                    yield Mistake(place(monitor), what, f"{'add' if on else 'remove'} the component {component}")
    if not manifests.kind("PodMonitor") and config.tls_cert and annotations.get("prometheus.io/scheme") != "https":
        yield Mistake(manifests.server.where, "is scraped in plaintext", "annotate it prometheus.io/scheme: https")
