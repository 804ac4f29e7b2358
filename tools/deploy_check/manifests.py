"""Kubernetes objects that are applied together, and the ways from one to another."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scopewatch.config import ENV_PREFIX, Config, load_config

Fields = dict[str, Any]
PROGRAM = "scopewatch"
"""The name of the container that runs the server."""
CACHE = "redis"
"""The name of the container that runs Redis."""


@dataclass(frozen=True)
class Workload:
    """A Deployment or a Job."""

    fields: Fields

    @property
    def where(self) -> str:
        return place(self.fields)

    @property
    def template(self) -> Fields:
        return self.fields["spec"]["template"]

    @property
    def labels(self) -> dict[str, str]:
        return self.template["metadata"].get("labels", {})

    @property
    def pod(self) -> Fields:
        return self.template["spec"]

    @property
    def containers(self) -> list[Fields]:
        """All containers, those that run before the others first."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def volumes(self) -> dict[str, Fields]:
        return {volume["name"]: volume for volume in self.pod.get("volumes", ())}

    def runs(self, container: str) -> bool:
        return container in {found["name"] for found in self.pod["containers"]}

    def container(self, name: str) -> Fields:
        return next(found for found in self.containers if found["name"] == name)

    def at(self, container: Fields, *path: str) -> str:
        """A place in a container, for people."""
        return " ".join([self.where, f"container {container['name']}", *path])


class Manifests:
    """Objects that are applied together, and the ways from one to another.

    Args:
        name: What they are called in messages, such as `overlays/gpu`.
        objects: The objects.
    """

    def __init__(self, name: str, objects: list[Fields]) -> None:
        self.name = name
        self.objects = objects

    def kind(self, *kinds: str) -> list[Fields]:
        return [found for found in self.objects if found["kind"] in kinds]

    def named(self, kind: str) -> dict[str, Fields]:
        return {found["metadata"]["name"]: found for found in self.kind(kind)}

    @cached_property
    def workloads(self) -> list[Workload]:
        return [Workload(found) for found in self.kind("Deployment", "Job")]

    @property
    def server(self) -> Workload:
        return next(found for found in self.workloads if found.runs(PROGRAM))

    @property
    def cache(self) -> Workload:
        return next(found for found in self.workloads if found.runs(CACHE))

    @property
    def program(self) -> Fields:
        """The container that runs the server."""
        return self.server.container(PROGRAM)

    def selected(self, labels: dict[str, str]) -> list[Workload]:
        return [found for found in self.workloads if labels.items() <= found.labels.items()]

    def environment(self, container: Fields) -> dict[str, str]:
        """The variables that a container sees."""
        maps = self.named("ConfigMap")
        seen: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            seen |= maps.get(source.get("configMapRef", {}).get("name"), {}).get("data", {})
        for entry in container.get("env", ()):
            seen[entry["name"]] = expanded(entry.get("value", ""), seen)
        return seen

    def files(self, workload: Workload, container: Fields) -> Iterator[tuple[str, Fields, str]]:
        """The files that a container finds in secrets and ConfigMaps: path, volume and key of each."""
        for mount in container.get("volumeMounts", ()):
            volume = workload.volumes.get(mount["name"], {})
            for key, path in self._items(volume):
                yield f"{mount['mountPath']}/{path}", volume, key

    def _items(self, volume: Fields) -> list[tuple[str, str]]:
        source = volume.get("secret") or volume.get("configMap") or {}
        if "items" in source:
            return [(item["key"], item["path"]) for item in source["items"]]
        held = self.named("ConfigMap").get(source.get("name", ""), {}).get("data", {})
        return [(key, key) for key in held]

    def config(self) -> Config:
        """The settings that the program loads; the file of a secret holds `secret-` and its key.

        Raises:
            ConfigError: The program refuses them.
        """
        environment = {k: v for k, v in self.environment(self.program).items() if k.startswith(ENV_PREFIX)}
        with tempfile.TemporaryDirectory() as folder:
            for file, _, key in self.files(self.server, self.program):
                here = Path(folder) / key
                here.write_text(f"secret-{key}\n", encoding="utf-8")
                environment = {
                    name: str(here) if name.endswith("_FILE") and value == file else value
                    for name, value in environment.items()
                }
            return load_config(environ=environment)


def place(fields: Fields) -> str:
    """What an object is called in messages."""
    return f"{fields['kind']}/{fields['metadata']['name']}"


def expanded(text: str, environment: dict[str, str]) -> str:
    """`$(NAME)` as the kubelet replaces it: left alone when the name is not known yet."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment.get(match[1], match[0]), text)
