"""Pods and their containers, as a kubelet and the restricted Pod Security Standard want them."""

import re
from collections import Counter
from collections.abc import Iterator

import scopewatch
from deploy_check.manifests import PROGRAM, Fields, Manifests, Workload
from deploy_check.mistakes import Mistake

RELEASE = re.compile(r"[\w./-]+(:(?!latest)[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})")
BY_DIGEST = re.compile(r"[\w./-]+@sha256:[0-9a-f]{64}")
VOLUMES = {"configMap", "emptyDir", "image", "persistentVolumeClaim", "secret"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _containers(manifests: Manifests) -> Iterator[tuple[Workload, Fields]]:
    for workload in manifests.workloads:
        for container in workload.containers:
            yield workload, container


def mounts_have_their_volumes(manifests: Manifests) -> Iterator[Mistake]:
    """Every mounted volume exists, every volume is mounted, and no two share a place."""
    for workload in manifests.workloads:
        mounted: set[str] = set()
        for container in workload.containers:
            mounts = container.get("volumeMounts", ())
            mounted |= {mount["name"] for mount in mounts}
            for name in sorted({mount["name"] for mount in mounts} - workload.volumes.keys()):
                yield Mistake(workload.at(container), f"mounts {name}, which is no volume of the pod", "add the volume")
            for path, times in Counter(mount["mountPath"] for mount in mounts).items():
                if times > 1:
                    yield Mistake(workload.at(container), f"mounts {times} volumes at {path}", "move all but one")
        for name in sorted(workload.volumes.keys() - mounted):
            yield Mistake(f"{workload.where} volume {name}", "is mounted nowhere", "mount or remove it")


def environment_has_no_duplicates(manifests: Manifests) -> Iterator[Mistake]:
    """No variable is set twice, because Kubernetes would silently take the last."""
    maps = manifests.named("ConfigMap")
    for workload, container in _containers(manifests):
        names = [entry["name"] for entry in container.get("env", ())]
        for source in container.get("envFrom", ()):
            names += maps.get(source.get("configMapRef", {}).get("name"), {}).get("data", {})
        for name, times in Counter(names).items():
            if times > 1:
                yield Mistake(workload.at(container), f"sets {name} {times} times", "keep one")


def variables_are_known_when_used(manifests: Manifests) -> Iterator[Mistake]:
    """`$(NAME)` stands after NAME; before it a kubelet leaves it as it is."""
    for workload, container in _containers(manifests):
        for name, value in manifests.environment(container).items():
            for unknown in re.findall(r"(?<!\$)\$\((\w+)\)", value):
                what = f"{name} uses $({unknown}), which is not set before it"
                yield Mistake(workload.at(container), what, f"set {unknown} above {name}")


def pods_are_restricted(manifests: Manifests) -> Iterator[Mistake]:
    """Every pod, of Jobs too, keeps the restricted Pod Security Standard and has a read-only root."""
    for workload in manifests.workloads:
        context = workload.pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield Mistake(workload.where, "may run as root", "set runAsNonRoot: true and a runAsUser above 0")
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield Mistake(workload.where, "has all system calls", "set seccompProfile: {type: RuntimeDefault}")
        for shared in sorted({"hostNetwork", "hostPID", "hostIPC"} & workload.pod.keys()):
            yield Mistake(workload.where, f"sets {shared}", "remove it")
        for name, volume in workload.volumes.items():
            for kind in sorted(volume.keys() - VOLUMES - {"name"}):
                what = f"is of the kind {kind}"
                yield Mistake(f"{workload.where} volume {name}", what, f"take one of {', '.join(sorted(VOLUMES))}")
        for container in workload.containers:
            if container.get("securityContext") != RESTRICTED:
                what = f"has the securityContext {container.get('securityContext')}"
                yield Mistake(workload.at(container), what, f"set {RESTRICTED}")


def memory_is_reserved_in_full(manifests: Manifests) -> Iterator[Mistake]:
    """No container can be killed for memory that it was promised: request and limit are the same."""
    for workload, container in _containers(manifests):
        resources = container.get("resources", {})
        asked, allowed = (resources.get(kind, {}).get("memory") for kind in ("requests", "limits"))
        if asked is None or asked != allowed:
            what = f"asks for {asked} of memory and may have {allowed}"
            yield Mistake(workload.at(container), what, "set the same for both")
        if "cpu" not in resources.get("requests", {}):
            yield Mistake(workload.at(container), "asks for no CPU", "set resources.requests.cpu")


def images_name_a_release(manifests: Manifests) -> Iterator[Mistake]:
    """No image is a moving one, the program's is of the version in this checkout, and weights are pinned by digest."""
    for workload, container in _containers(manifests):
        image = container["image"]
        if not RELEASE.fullmatch(image):
            yield Mistake(workload.at(container), f"runs {image}", "name a release or a digest")
        elif image.rpartition("/")[2].partition(":")[0] == PROGRAM and "@" not in image:
            tag = image.rpartition(":")[2]
            if tag.removesuffix("-cuda").removesuffix("-tools") != scopewatch.__version__:
                what = f"runs the version {tag}; this checkout is {scopewatch.__version__}"
                yield Mistake(workload.at(container), what, "change newTag")
    for workload in manifests.workloads:
        for name, volume in workload.volumes.items():
            reference = volume.get("image", {}).get("reference", "")
            if reference and not BY_DIGEST.fullmatch(reference):
                what = f"mounts the image {reference}, which can be moved to other weights"
                yield Mistake(f"{workload.where} volume {name}", what, "name it by its digest, NAME@sha256:...")


def service_links_are_off(manifests: Manifests) -> Iterator[Mistake]:
    """Kubernetes puts no variables for Services into any pod: only those that the manifests name are there."""
    for workload in manifests.workloads:
        if workload.pod.get("enableServiceLinks") is not False:
            yield Mistake(workload.where, "gets variables for every Service", "set enableServiceLinks: false")


def accounts_are_their_own(manifests: Manifests) -> Iterator[Mistake]:
    """What is granted to one pod's account is not granted to another's; none has a token of the API."""
    times = Counter(workload.pod.get("serviceAccountName") for workload in manifests.workloads)
    for workload in manifests.workloads:
        name = workload.pod.get("serviceAccountName")
        if times[name] > 1:
            yield Mistake(workload.where, f"shares the account {name}", "give it a ServiceAccount of its own")
        if workload.pod.get("automountServiceAccountToken") is not False:
            yield Mistake(workload.where, "gets a token of the API", "set automountServiceAccountToken: false")
    for name, account in manifests.named("ServiceAccount").items():
        if account.get("automountServiceAccountToken") is not False:
            what = "gives its pods a token of the API"
            yield Mistake(f"ServiceAccount/{name}", what, "set automountServiceAccountToken: false")
        if name not in times:
            yield Mistake(f"ServiceAccount/{name}", "is of no pod", "remove it, or name it in one")


def watched_files_are_no_subpaths(manifests: Manifests) -> Iterator[Mistake]:
    """Files of ConfigMaps and secrets, which the program reads again when they change, are mounted so that they do."""
    for workload, container in _containers(manifests):
        for mount in container.get("volumeMounts", ()):
            volume = workload.volumes.get(mount["name"], {})
            if {"configMap", "secret"} & volume.keys() and {"subPath", "subPathExpr"} & mount.keys():
                what = f"mounts {mount['name']} by subPath, which is never brought up to date"
                yield Mistake(workload.at(container), what, "mount the whole volume into a folder of its own")
