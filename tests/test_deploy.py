"""The manifests, checked without a cluster."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

import scopewatch
from conftest import free_port, need, wait_until
from scopewatch.cli import _parser
from scopewatch.config import ENV_PREFIX, Config, load_config
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.pipeline.cache import KEY_PREFIX
from scopewatch.pipeline.redis_client import redis_client

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.37"
GPU = "nvidia.com/gpu"
DNS_PORT = 53
README = (DEPLOY / "README.md").read_text(encoding="utf-8")


class Manifests:
    """Kubernetes objects, and the ways from one to another."""

    def __init__(self, objects: list[dict[str, Any]]) -> None:
        self.objects = objects

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [found for found in self.objects if found["kind"] == kind]

    @property
    def templates(self) -> list[dict[str, Any]]:
        return [workload["spec"]["template"] for workload in self.kind("Deployment")]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [container for template in self.templates for container in template["spec"]["containers"]]

    @property
    def server(self) -> dict[str, Any]:
        """The pod that runs scopewatch."""
        return next(t["spec"] for t in self.templates if t["spec"]["containers"][0]["name"] == "scopewatch")

    @property
    def cache(self) -> dict[str, Any]:
        """The pod that runs Redis."""
        return next(t["spec"] for t in self.templates if t["spec"]["containers"][0]["name"] == "redis")

    @property
    def program(self) -> dict[str, Any]:
        """The container that runs scopewatch."""
        return self.server["containers"][0]

    def selected(self, labels: dict[str, str]) -> list[dict[str, Any]]:
        return [t for t in self.templates if labels.items() <= t["metadata"]["labels"].items()]

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """What the container sees."""
        maps = {found["metadata"]["name"]: found["data"] for found in self.kind("ConfigMap")}
        seen: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            seen |= maps[source["configMapRef"]["name"]]
        for entry in container.get("env", ()):
            seen[entry["name"]] = _expanded(entry["value"], seen)
        return seen

    def secret_files(self, pod: dict[str, Any]) -> dict[str, tuple[str, str]]:
        """The files that a pod's container finds secrets in, with the secret and the key of each."""
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
        return {
            f"{mounted[volume['name']]}/{item['path']}": (volume["secret"]["secretName"], item["key"])
            for volume in pod.get("volumes", ())
            if "secret" in volume
            for item in volume["secret"]["items"]
        }

    def config(self) -> Config:
        """The settings that the program loads; a secret's file holds `secret-` and its key."""
        environment = {k: v for k, v in self.environment(self.program).items() if k.startswith(ENV_PREFIX)}
        with tempfile.TemporaryDirectory() as folder:
            for file, (_, key) in self.secret_files(self.server).items():
                here = Path(folder) / key
                here.write_text(f"secret-{key}\n", encoding="utf-8")
                environment = {name: str(here) if value == file else value for name, value in environment.items()}
            return load_config(environ=environment)


def _expanded(text: str, environment: dict[str, str]) -> str:
    """`$(NAME)` as the kubelet replaces it: left alone when the name is not known yet."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment.get(match[1], match[0]), text)


def base_from_files() -> Manifests:
    """The base as Kustomize would render it, without Kustomize: its files, and the ConfigMap made of settings.env."""
    folder = DEPLOY / "base"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    objects = [
        o
        for name in kustomization["resources"]
        for o in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))
    ]
    for generator in kustomization["configMapGenerator"]:
        lines = [
            line for name in generator["envs"] for line in (folder / name).read_text(encoding="utf-8").splitlines()
        ]
        data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    return Manifests(objects)


def kustomized(folder: str | Path) -> Manifests:
    kubectl = shutil.which("kubectl")
    if kubectl is None or subprocess.run([kubectl, "kustomize", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("kubectl with kustomize is not installed")
    command = [kubectl, "kustomize", str(DEPLOY / folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (rendered.returncode, rendered.stderr)
    return Manifests(list(yaml.safe_load_all(rendered.stdout)))


def renamed(folder: Path) -> Manifests:
    """The GPU installation as an overlay of an overlay of one's own renders it, each with names of its own."""
    below = DEPLOY / "overlays" / "gpu"
    for name, fields in {"team": {"namespace": "team"}, "copy": {"nameSuffix": "-two"}}.items():
        here = folder / name
        here.mkdir()
        overlay = {"resources": [os.path.relpath(below, here)], "namePrefix": f"{name}-", **fields}
        (here / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
        below = here
    return kustomized(below)


@pytest.fixture(scope="module", params=["files", "base", "overlays/gpu", "renamed"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """The base read from its files, and the installations as Kustomize renders them."""
    if request.param == "renamed":
        return renamed(tmp_path_factory.mktemp("renamed"))
    return base_from_files() if request.param == "files" else kustomized(request.param)


@pytest.fixture(scope="module")
def base() -> Manifests:
    return base_from_files()


def test_kustomizations_list_exactly_their_files() -> None:
    """No manifest lies in a folder without being applied, and none is applied that is missing."""
    for file in DEPLOY.rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
        listed = [name for key in ("resources", "components", "configurations") for name in kustomization.get(key, [])]
        listed += [patch["path"] for patch in kustomization.get("patches", [])]
        listed += [
            env for generator in kustomization.get("configMapGenerator", []) for env in generator.get("envs", [])
        ]
        here = {path.name for path in file.parent.iterdir() if path.is_file()} - {"kustomization.yaml"}
        assert here == {name for name in listed if not name.startswith("..")}, file
        assert [] == [name for name in listed if not (file.parent / name).exists()], file


def test_every_object_fits_the_kubernetes_schema(manifests: Manifests) -> None:
    """Kubernetes knows every field that is written, and every value has the type it wants."""
    assert len(manifests.objects) >= 10
    for found in manifests.objects:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_names_are_valid_and_used_once(manifests: Manifests) -> None:
    """Every object's name is a DNS label, and no two objects of a kind share one."""
    names = [(found["kind"], found["metadata"]["name"]) for found in manifests.objects]
    assert len(names) == len(set(names))
    assert [] == [name for _, name in names if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)]


def test_selectors_find_their_pods(manifests: Manifests) -> None:
    """Every Deployment, Service, PodDisruptionBudget and policy selects exactly the pods it is about."""
    for workload in manifests.kind("Deployment"):
        assert [workload["spec"]["template"]] == manifests.selected(workload["spec"]["selector"]["matchLabels"])
    for service in manifests.kind("Service"):
        assert 1 == len(manifests.selected(service["spec"]["selector"])), service["metadata"]["name"]
    for budget in manifests.kind("PodDisruptionBudget"):
        assert 1 == len(manifests.selected(budget["spec"]["selector"]["matchLabels"]))
    for policy in manifests.kind("NetworkPolicy"):
        own = policy["spec"]["podSelector"].get("matchLabels")
        assert (1 if own else len(manifests.templates)) == len(manifests.selected(own or {}))
    spread = [s for t in manifests.templates for s in t["spec"].get("topologySpreadConstraints", ())]
    for constraint in spread:
        assert 1 == len(manifests.selected(constraint["labelSelector"]["matchLabels"]))


def test_ports_lead_to_containers(manifests: Manifests) -> None:
    """Port names are short and unique, and every Service and probe leads to a port that a container declares."""
    for container in manifests.containers:
        names = [port["name"] for port in container["ports"]]
        assert len(names) == len(set(names))
        assert [] == [name for name in names if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", name)]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for check in container.get(probe, {}).values():
                if isinstance(check, dict):
                    assert check["port"] in names + [port["containerPort"] for port in container["ports"]]
    for service in manifests.kind("Service"):
        (template,) = manifests.selected(service["spec"]["selector"])
        declared = {p["name"]: p["containerPort"] for c in template["spec"]["containers"] for p in c["ports"]}
        for port in service["spec"]["ports"]:
            assert port["port"] == declared.get(port["targetPort"]), service["metadata"]["name"]


def test_mounts_have_their_volumes(manifests: Manifests) -> None:
    """Every mounted volume exists, every volume is mounted, and no two share a place."""
    for template in manifests.templates:
        mounts = [mount for c in template["spec"]["containers"] for mount in c.get("volumeMounts", ())]
        volumes = [volume["name"] for volume in template["spec"].get("volumes", ())]
        assert sorted(volumes) == sorted(mount["name"] for mount in mounts)
        assert len(mounts) == len({mount["mountPath"] for mount in mounts})


def test_environment_has_no_duplicates(manifests: Manifests) -> None:
    """No variable is set twice, because Kubernetes would silently take the last."""
    for container in manifests.containers:
        own = [entry["name"] for entry in container.get("env", ())]
        assert len(own) == len(set(own))
        shared = {name for o in manifests.kind("ConfigMap") for name in o["data"]} if "envFrom" in container else set()
        assert set() == shared & set(own)


def test_settings_load(manifests: Manifests) -> None:
    """The program accepts every setting it is given, and listens on the ports that the pod declares."""
    config = manifests.config()
    declared = {port["name"]: port["containerPort"] for port in manifests.program["ports"]}
    assert {"grpc": f"0.0.0.0:{declared['grpc']}", "metrics": f"0.0.0.0:{declared['metrics']}"} == {
        "grpc": config.grpc_address,
        "metrics": config.metrics_address,
    }
    assert "secret-cache-secret" == config.cache_secret.get_secret_value()
    assert config.insecure, "it serves others in plaintext"
    assert config.torch_threads == int(manifests.program["resources"]["requests"]["cpu"])


def test_redis_url_leads_to_the_redis_service(manifests: Manifests) -> None:
    """The server asks the Redis that is deployed beside it, whatever it is called, as the user that Redis makes."""
    (service,) = [s for s in manifests.kind("Service") if s["spec"]["ports"][0]["name"] == "redis"]
    host = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    config = manifests.config()
    assert f"redis://scopewatch@{host}/0" == config.redis_url.get_secret_value()
    assert "secret-redis-password" == config.redis_password.get_secret_value()
    (wanted,) = [of for of in manifests.secret_files(manifests.server).values() if of[1] == "redis-password"]
    assert [wanted] == list(manifests.secret_files(manifests.cache).values())


def test_command_line_is_one_the_program_has(manifests: Manifests) -> None:
    """The container's arguments are a `serve` that the program parses."""
    assert "scopewatch.cli.serve" == _parser().parse_args(manifests.program["args"]).run.__module__


def test_service_links_are_off(manifests: Manifests) -> None:
    """Kubernetes puts no variables for Services into any pod: only those that the manifests name are there."""
    assert [False] * len(manifests.templates) == [t["spec"].get("enableServiceLinks") for t in manifests.templates]


def test_probes_ask_the_health_services_of_the_program(manifests: Manifests) -> None:
    """Start-up and readiness ask whether pairs are accepted, liveness only whether the process answers."""
    grpc = next(port["containerPort"] for port in manifests.program["ports"] if port["name"] == "grpc")
    asked = {probe: manifests.program[probe]["grpc"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {
        "startupProbe": {"port": grpc, "service": SERVICE_NAME},
        "readinessProbe": {"port": grpc, "service": SERVICE_NAME},
        "livenessProbe": {"port": grpc, "service": ""},
    } == asked
    startup = manifests.program["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300, "too short to load a large reader"


def test_shutdown_fits_the_grace_period(manifests: Manifests) -> None:
    """A pod is killed only after preStop, drain delay and drain grace have had their time, with some to spare."""
    config = manifests.config()
    needed = manifests.program["lifecycle"]["preStop"]["sleep"]["seconds"] + config.drain_delay_s + config.drain_grace_s
    assert manifests.server["terminationGracePeriodSeconds"] >= needed + 5


def test_readiness_is_noticed_while_draining(manifests: Manifests) -> None:
    """Connections stop coming before the server refuses them: preStop and drain delay outlast the readiness probe."""
    probe = manifests.program["readinessProbe"]
    pause = manifests.program["lifecycle"]["preStop"]["sleep"]["seconds"] + manifests.config().drain_delay_s
    assert pause >= probe["periodSeconds"] * probe["failureThreshold"]


def test_pods_are_restricted(manifests: Manifests) -> None:
    """Every pod keeps the restricted Pod Security Standard, has a read-only root and no API token."""
    for template in manifests.templates:
        pod = template["spec"]
        assert (True, "RuntimeDefault", False) == (
            pod["securityContext"]["runAsNonRoot"],
            pod["securityContext"]["seccompProfile"]["type"],
            pod["automountServiceAccountToken"],
        )
        assert pod["securityContext"]["runAsUser"] > 0
        assert set() == {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {"emptyDir", "persistentVolumeClaim", "secret", "name"} >= {
            key for v in pod.get("volumes", ()) for key in v
        }
        for container in pod["containers"]:
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert expected == container["securityContext"], container["name"]
            assert [] == [port for port in container["ports"] if "hostPort" in port]
    assert "/tmp" in {mount["mountPath"] for mount in manifests.program["volumeMounts"]}
    (namespace,) = manifests.kind("Namespace")
    assert "restricted" == namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]


def test_memory_is_reserved_in_full(manifests: Manifests) -> None:
    """No container can be killed for memory that it was promised: request and limit are the same."""
    for container in manifests.containers:
        resources = container["resources"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        assert "cpu" in resources["requests"]


def test_images_name_a_release(manifests: Manifests) -> None:
    """No image is a moving one, and the program's is of the version in this checkout."""
    for container in manifests.containers:
        assert re.fullmatch(r"[\w./-]+(:(?!latest)[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})", container["image"])
    assert scopewatch.__version__ == manifests.program["image"].removesuffix("-cuda").rpartition(":")[2]


def test_policies_open_only_what_is_needed(manifests: Manifests) -> None:
    """Everything is denied first; then gRPC, metrics, Redis and DNS are let through, each from or to somebody named."""
    denied = [p["spec"] for p in manifests.kind("NetworkPolicy") if not p["spec"]["podSelector"]]
    assert [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}] == denied
    ports = {p["name"]: p["containerPort"] for c in manifests.containers for p in c["ports"]}
    opened: dict[str, set[int]] = {"ingress": set(), "egress": set()}
    for policy in manifests.kind("NetworkPolicy"):
        assert ["Ingress", "Egress"] == policy["spec"]["policyTypes"]
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                assert [] == [peer for peer in rule[peers] if not any(s.get("matchLabels") for s in peer.values())]
                opened[direction] |= {port["port"] for port in rule["ports"]}
    assert {"ingress": set(ports.values()), "egress": {ports["redis"], DNS_PORT}} == opened


def test_secrets_are_not_in_the_repository_but_explained(manifests: Manifests) -> None:
    """No Secret is applied, and the README's command makes every key that the pods want."""
    assert [] == manifests.kind("Secret")
    wanted = {of for template in manifests.templates for of in manifests.secret_files(template["spec"]).values()}
    made = re.search(r"create secret generic (\S+)((?:.*\\\n)+.*)", README)
    assert made is not None
    assert {(made[1], key) for key in re.findall(r"--from-file=([\w-]+)=<", made[2])} == wanted


def test_secrets_are_files_that_only_the_pod_s_group_reads(manifests: Manifests) -> None:
    """No secret is in a variable, which `kubectl describe` and crash reports show; Redis does not get the other one."""
    assert [] == [
        entry for container in manifests.containers for entry in container.get("env", ()) if "value" not in entry
    ]
    assert [] == [
        source for container in manifests.containers for source in container.get("envFrom", ()) if "secretRef" in source
    ]
    for template in manifests.templates:
        pod = template["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        secrets = [volume for volume in pod["volumes"] if "secret" in volume]
        assert [(0o440, True)] == [(one["secret"]["defaultMode"], mounts[one["name"]]["readOnly"]) for one in secrets]
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    assert ["redis-password"] == [key for _, key in manifests.secret_files(manifests.cache).values()]


def test_each_pod_has_an_account_of_its_own(manifests: Manifests) -> None:
    """What is granted to one account, by whoever grants it, is not granted to the other; neither has a token."""
    accounts = {account["metadata"]["name"]: account for account in manifests.kind("ServiceAccount")}
    used = [template["spec"]["serviceAccountName"] for template in manifests.templates]
    assert sorted(accounts) == sorted(used)
    tokens = [account["automountServiceAccountToken"] for account in accounts.values()]
    tokens += [template["spec"]["automountServiceAccountToken"] for template in manifests.templates]
    assert {False} == set(tokens)


def test_gpu_overlay_gives_each_pod_a_gpu() -> None:
    """With the overlay a pod has one GPU, may run on GPU nodes, insists on the device and reads its own watchlist."""
    manifests = kustomized("overlays/gpu")
    config = manifests.config()
    assert "1" == manifests.program["resources"]["limits"][GPU]
    assert [GPU] == [toleration["key"] for toleration in manifests.server["tolerations"]]
    (claim,) = [v["persistentVolumeClaim"] for v in manifests.server["volumes"] if "persistentVolumeClaim" in v]
    mounts = {mount["mountPath"]: mount for mount in manifests.program["volumeMounts"]}
    assert ("cuda", (Path("/models/watchlist.yaml"),)) == (config.device, config.watchlist)
    assert (True, True) == (claim["readOnly"], mounts["/models"]["readOnly"])
    assert claim["claimName"] in README


PASSWORD = "s3cret $(x) 'ä'"


@contextmanager
def deployed_redis(base: Manifests, folder: Path, **replaced: str) -> Iterator[int]:
    """The port of a real Redis, started as the manifest starts it, with its volumes in a folder.

    Args:
        base: The manifests.
        folder: Where its volumes lie, with the secret in them.
        replaced: What stands in the command in the place of other words; spaces are underscores.
    """
    need("redis-server")
    (container,) = base.cache["containers"]
    changes = {old.replace("_", " "): new for old, new in replaced.items()}
    for mount in container["volumeMounts"]:
        (folder / mount["name"]).mkdir()
        changes[mount["mountPath"]] = str(folder / mount["name"])
    (folder / "secrets" / "redis-password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    script = container["command"][2]
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    port = free_port()
    command = [*container["command"][:2], script, *container["command"][3:], *container["args"]]
    server = subprocess.Popen([*command, "--port", str(port), "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), "redis-server did not start")
        assert 0o600 == (folder / "users" / "users.acl").stat().st_mode & 0o777
        for shown in ("cmdline", "environ"):
            assert PASSWORD.encode() not in Path(f"/proc/{server.pid}/{shown}").read_bytes()
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.mark.system
def test_redis_runs_with_the_arguments_of_the_manifest(base: Manifests, tmp_path: Path) -> None:
    """Redis accepts its arguments, evicts instead of refusing and keeps nothing on disk."""
    everything = {"user_default_off": "user default on nopass ~* &* +@all"}
    with deployed_redis(base, tmp_path, **everything) as port, redis.Redis(port=port, decode_responses=True) as client:
        wanted = {"maxmemory-policy": "allkeys-lru", "save": "", "appendonly": "no"}
        assert wanted == client.config_get(*wanted)
        limit = int(base.cache["containers"][0]["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
        assert 0 < int(client.config_get("maxmemory")["maxmemory"]) <= 0.8 * limit


@pytest.mark.system
def test_redis_lets_nobody_do_more_than_a_cache_does(base: Manifests, tmp_path: Path) -> None:
    """With the password of the secret one gets and sets keys of scopewatch, and nothing else; without, nothing at all."""
    with deployed_redis(base, tmp_path) as port:
        with redis.Redis(port=port, username="scopewatch", password=PASSWORD) as client:
            client.set("scopewatch:1:a", b"1", ex=60)
            assert [b"1", b"1"] == [client.get("scopewatch:1:a"), *client.mget(["scopewatch:1:a"])]
            refused = [
                "GET other",
                "SET other 1",
                "MGET scopewatch:a other",
                "DEL scopewatch:1:a",
                "KEYS *",
                "FLUSHALL",
            ]
            refused += [
                "CONFIG GET requirepass",
                "ACL LIST",
                "CLIENT LIST",
                "EVAL return(1) 0",
                "SELECT 1",
                "PUBLISH a b",
            ]
            for command in refused:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command.split())
        for stranger in ({}, {"password": PASSWORD}, {"username": "scopewatch", "password": "another"}):
            once = Retry(NoBackoff(), 0)
            with redis.Redis(port=port, retry=once, **stranger) as client, pytest.raises(redis.AuthenticationError):
                client.get("scopewatch:1:a")


@pytest.mark.system
async def test_the_cache_works_with_what_redis_lets_it_do(base: Manifests, tmp_path: Path) -> None:
    """The program's own cache, with the settings of the manifest, writes and reads there, and nothing fails."""
    config = base.config()
    with deployed_redis(base, tmp_path) as port:
        client = redis_client(
            re.sub(r"@[\w.-]+:\d+", f"@127.0.0.1:{port}", config.redis_url.get_secret_value()),
            mode=config.redis_mode,
            sentinel_service=config.redis_sentinel_service,
            timeout_s=20.0,
            password=PASSWORD,
        )
        await client.set_many([(f"{KEY_PREFIX}{number}", b"value", 60) for number in range(3)])
        assert [b"value", None] == await client.get_many([f"{KEY_PREFIX}2", f"{KEY_PREFIX}3"])
        await client.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
