"""Secrets: where they are, and who gets which."""

from collections.abc import Iterator

from deploy_check.manifests import Manifests, place
from deploy_check.mistakes import Mistake

PRIVATE = {"cache-secret", "roles.yaml", "token"}
"""Keys that nobody but the workload that uses them gets."""


def no_secret_is_applied(manifests: Manifests) -> Iterator[Mistake]:
    """No Secret lies in the repository."""
    for found in manifests.kind("Secret"):
        yield Mistake(place(found), "is applied, so its content lies in files", "make it in the cluster, see README.md")


def secrets_are_files_of_the_group(manifests: Manifests) -> Iterator[Mistake]:
    """No secret is in a variable, which `kubectl describe` and crash reports show; only the pod's group reads the files."""
    for workload in manifests.workloads:
        for container in workload.containers:
            for entry in container.get("env", ()):
                if "secretKeyRef" in entry.get("valueFrom", {}):
                    what = f"has a secret in the variable {entry['name']}"
                    yield Mistake(workload.at(container), what, "mount it, and name its file in a setting ..._FILE")
            for source in container.get("envFrom", ()):
                if "secretRef" in source:
                    yield Mistake(workload.at(container), "has a secret in variables", "mount it as files")
            for mount in container.get("volumeMounts", ()):
                if "secret" in workload.volumes.get(mount["name"], {}) and mount.get("readOnly") is not True:
                    yield Mistake(workload.at(container), f"may write to {mount['name']}", "set readOnly: true")
        context = workload.pod.get("securityContext", {})
        for name, volume in workload.volumes.items():
            if "secret" not in volume:
                continue
            if volume["secret"].get("defaultMode") != 0o440 or context.get("fsGroup") != context.get("runAsGroup"):
                what = "can be read by others than the pod's group"
                mend = "set defaultMode: 0440, and fsGroup to what runAsGroup is"
                yield Mistake(f"{workload.where} volume {name}", what, mend)


def each_pod_gets_what_it_needs(manifests: Manifests) -> Iterator[Mistake]:
    """Secrets are mounted by their keys; Redis gets neither the secret that signs values nor roles, the server no key of Redis."""
    for workload in manifests.workloads:
        for name, volume in workload.volumes.items():
            where = f"{workload.where} volume {name}"
            secret = volume.get("secret")
            if secret is None:
                continue
            if "items" not in secret:
                yield Mistake(where, f"holds all of the secret {secret['secretName']}", "list the keys as items")
            keys = {item["key"] for item in secret.get("items", ())}
            wrong = keys & PRIVATE if workload is manifests.cache else set()
            if workload is manifests.server and "redis" in secret["secretName"]:
                wrong = keys & {"tls.key"}
            for key in sorted(wrong):
                yield Mistake(where, f"holds {key}, which it has no use for", "take it from the items")
