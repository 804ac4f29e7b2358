"""Each rule of `make deploy-check` is red on a mistake that it is about, and no other rule is."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy_check.rendering import base_from_files, overlaid, wanted
from deploy_check.rules import RULES, mistakes
from deployed import DEPLOY, need_kustomize

MEMORY = "            limits:\n              memory: 2Gi"
SERVER_SELECTOR = (
    "app.kubernetes.io/component: server\n  ports:\n    - name: grpc\n      port: 50051\n      targetPort: grpc\n"
)
SECRET = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: mine, namespace: scopewatch}\nstringData: {a: b}\n---\n"
BIG = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: big, namespace: scopewatch}\ndata: {a: '"
    + "x" * (1 << 20)
    + "'}\n---\n"
)


@dataclass(frozen=True)
class Seed:
    """A mistake that is made in a file of the manifests."""

    rule: str
    """The one rule that is to complain."""
    file: str
    old: str
    new: str
    components: tuple[str, ...] = ()
    """What is rendered with the base; nothing: the base as its files are."""

    def __str__(self) -> str:
        return f"{self.rule}: {' '.join(self.new.split())[:40]}"


def base(rule: str, file: str, old: str, new: str) -> Seed:
    return Seed(rule, f"base/{file}", old, new)


def component(rule: str, file: str, old: str, new: str, *more: str) -> Seed:
    return Seed(rule, f"components/{file}", old, new, (file.partition("/")[0], *more))


SEEDS = (
    # What the API server refuses.
    base("fits_the_kubernetes_schema", "deployment.yaml", "terminationGracePeriodSeconds", "terminationGraceSeconds"),
    base("fits_the_kubernetes_schema", "service.yaml", "port: 50051", 'port: "50051"'),
    base("names_are_valid_and_used_once", "networkpolicy.yaml", "name: default-deny", "name: Default_Deny"),
    base("names_are_valid_and_used_once", "networkpolicy.yaml", "name: scopewatch-redis", "name: scopewatch"),
    base("config_maps_are_small_enough", "namespace.yaml", "apiVersion: v1", BIG + "apiVersion: v1"),
    base("pods_are_restricted", "redis.yaml", "runAsNonRoot: true", "runAsNonRoot: false"),
    component("pods_are_restricted", "models-fetch/job.yaml", "allowPrivilegeEscalation: false", "privileged: false"),
    base(
        "mounts_have_their_volumes",
        "deployment.yaml",
        "- name: tmp\n              mountPath",
        "- name: temp\n              mountPath",
    ),
    base(
        "ports_are_named", "deployment.yaml", "containerPort: 9464", "containerPort: 9464\n              hostPort: 9464"
    ),
    component("references_exist", "priority/kustomization.yaml", "value: scopewatch}", "value: high}"),
    base("namespaces_agree", "namespace.yaml", "enforce: restricted", "enforce: baseline"),
    # What it takes, and what then does not work.
    base("selectors_find_their_pods", "service.yaml", SERVER_SELECTOR, SERVER_SELECTOR.replace("server", "serving")),
    base("selectors_find_their_pods", "poddisruptionbudget.yaml", "      app.kubernetes.io/component: server\n", ""),
    base("ports_lead_to_containers", "service.yaml", "targetPort: grpc\n", "targetPort: gprc\n"),
    base(
        "environment_has_no_duplicates",
        "deployment.yaml",
        "          env:\n",
        "          env:\n            - {name: SCOPEWATCH_INSECURE, value: 'true'}\n",
    ),
    base("variables_are_known_when_used", "deployment.yaml", "- name: REDIS_HOST", "- name: REDIS_NAME"),
    base("memory_is_reserved_in_full", "deployment.yaml", MEMORY, MEMORY.replace("2Gi", "4Gi")),
    base("images_name_a_release", "deployment.yaml", "scopewatch:0.1.0", "scopewatch:latest"),
    base("images_name_a_release", "deployment.yaml", "scopewatch:0.1.0", "scopewatch:0.0.9"),
    component("images_name_a_release", "models-image/deployment.yaml", "@sha256:" + 64 * "0", ":1.0"),
    base("service_links_are_off", "redis.yaml", "      enableServiceLinks: false\n", ""),
    base(
        "accounts_are_their_own", "redis.yaml", "serviceAccountName: scopewatch-redis", "serviceAccountName: scopewatch"
    ),
    component(
        "watched_files_are_no_subpaths",
        "watchlists/deployment.yaml",
        "readOnly: true",
        "readOnly: true\n              subPath: watchlists",
    ),
    base("no_secret_is_applied", "namespace.yaml", "apiVersion: v1", SECRET + "apiVersion: v1"),
    base("secrets_are_files_of_the_group", "redis.yaml", "defaultMode: 0440", "defaultMode: 0444"),
    base(
        "each_pod_gets_what_it_needs",
        "redis.yaml",
        "items:\n",
        "items:\n              - {key: cache-secret, path: cache-secret}\n",
    ),
    # What the program refuses, or does otherwise than somebody meant.
    base("settings_load", "settings.env", "SCOPEWATCH_TORCH_THREADS", "SCOPEWATCH_TORCH_THREAD"),
    base("settings_load", "settings.env", "SCOPEWATCH_INSECURE=true\n", ""),
    component("command_lines_parse", "models-fetch/job.yaml", '["models", "fetch"', '["model", "fetch"'),
    base("server_listens_where_its_ports_are", "settings.env", "0.0.0.0:9464", "0.0.0.0:9465"),
    base(
        "probes_ask_the_health_of_the_program",
        "deployment.yaml",
        "scopewatch.v1.MonitorService",
        "scopewatch.MonitorService",
    ),
    component(
        "probes_ask_the_health_of_the_program",
        "tls/deployment.yaml",
        "readinessProbe:\n            grpc:\n              port: 50052",
        "readinessProbe:\n            grpc:\n              port: 50051",
    ),
    base(
        "shutdown_fits_the_grace_period",
        "deployment.yaml",
        "terminationGracePeriodSeconds: 60",
        "terminationGracePeriodSeconds: 30",
    ),
    base("readiness_is_noticed_while_draining", "settings.env", "DRAIN_DELAY_S=5", "DRAIN_DELAY_S=0"),
    component(
        "named_files_are_mounted",
        "tls/kustomization.yaml",
        "TLS_CERT=/run/secrets/tls/tls.crt",
        "TLS_CERT=/run/secrets/tls/cert.pem",
    ),
    component("watchlists_load", "watchlists/watchlist.yaml", "segment: prompt", "segment: question"),
    base("engine_has_its_cpus", "settings.env", "TORCH_THREADS=2", "TORCH_THREADS=16"),
    component("plaintext_is_on_purpose", "tls/kustomization.yaml", "INSECURE=false", "INSECURE=true"),
    component("plaintext_is_on_purpose", "tls/kustomization.yaml", "value: https", "value: kubernetes.io/h2c"),
    base("redis_is_reached", "deployment.yaml", "value: scopewatch-redis", "value: redis"),
    base("redis_is_reached", "deployment.yaml", "redis://scopewatch@", "redis://default@"),
    component("redis_is_reached", "redis-tls/server.yaml", "rediss://", "redis://"),
    component(
        "certificates_name_the_services",
        "cert-manager/certificate.yaml",
        "    - scopewatch-headless.scopewatch.svc\n",
        "",
    ),
    base(
        "everything_is_denied_first",
        "networkpolicy.yaml",
        'podSelector: {}\n  policyTypes: ["Ingress", "Egress"]',
        'podSelector: {}\n  policyTypes: ["Ingress"]',
    ),
    base("policies_open_only_what_is_needed", "networkpolicy.yaml", "- port: 9464", "- port: 22"),
    base(
        "policies_open_only_what_is_needed",
        "networkpolicy.yaml",
        '            matchLabels:\n              scopewatch-client: "true"',
        "            {}",
    ),
    component("policies_open_only_what_is_needed", "models-fetch/networkpolicy.yaml", '"169.254.0.0/16", ', ""),
    component("routes_lead_to_services", "gateway/grpcroute.yaml", "port: 50051", "port: 443"),
    component(
        "autoscalers_own_the_number",
        "keda/kustomization.yaml",
        "op: remove, path: /spec/replicas",
        "op: replace, path: /spec/replicas, value: 3",
    ),
    component(
        "autoscalers_own_the_number",
        "hpa/horizontalpodautoscaler.yaml",
        "kind: Deployment\n    name: scopewatch",
        "kind: Deployment\n    name: scope-watch",
    ),
    component("queries_ask_for_their_namespace", "keda/scaledobject.yaml", '{namespace="scopewatch"}', ""),
    base("disruptions_are_bounded", "poddisruptionbudget.yaml", "maxUnavailable: 1", "maxUnavailable: 2"),
    component(
        "metrics_are_exported", "keda/scaledobject.yaml", "scopewatch_queue_tokens{", "scopewatch_queued_tokens{"
    ),
    component("scrapes_speak_as_the_server_does", "monitoring-tls/kustomization.yaml", "value: https", "value: http"),
    component(
        "scrapes_speak_as_the_server_does",
        "monitoring/kustomization.yaml",
        "op: remove, path: /spec/template/metadata/annotations",
        "op: test, path: /spec/template/metadata/annotations/prometheus.io~1port, value: '9464'",
    ),
)


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_a_mistake_is_told_by_its_rule_alone(seed: Seed, tmp_path: Path) -> None:
    """A change of one place in one file, and exactly the rule that is about it names an object, what is wrong and a mend."""
    if seed.components:
        need_kustomize()
    deploy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, deploy)
    file = deploy / seed.file
    text = file.read_text(encoding="utf-8")
    assert seed.old in text, "the place is there no more"
    file.write_text(text.replace(seed.old, seed.new, 1), encoding="utf-8")
    found = mistakes(overlaid(wanted(seed.components), deploy) if seed.components else base_from_files(deploy))
    assert {seed.rule} == {mistake.rule for mistake in found}, "\n".join(map(str, found))
    assert all(mistake.where and mistake.what and mistake.mend for mistake in found)


def test_every_rule_has_been_seen_to_complain() -> None:
    """No rule is there that no mistake above sets off."""
    assert {rule.__name__ for rule in RULES} == {seed.rule for seed in SEEDS}
