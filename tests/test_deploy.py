"""The manifests: each rule of `make deploy-check` holds for all of them, and what they start works as they start it."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from certificates import Authority
from conftest import free_port, need, wait_until
from deploy_check import crds
from deploy_check.manifests import Manifests
from deploy_check.rendering import COMPONENTS, combinations
from deploy_check.rules import mistakes
from deployed import APART, DEPLOY, NAMES, ROOT, manifests
from scopewatch.pipeline.cache import KEY_PREFIX
from scopewatch.pipeline.redis_client import redis_client

GPU = "nvidia.com/gpu"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def base() -> Manifests:
    return manifests("files")


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_finds_a_mistake(name: str) -> None:
    """Whatever an API server, a kubelet or the program would refuse, or an operator regret, is in no installation."""
    assert [] == mistakes(manifests(name))


def test_custom_resources_fit_their_definitions() -> None:
    """Every field that is written is one that the operator knows, and an unknown one is told."""
    objects = [found for name in ("production", *APART) for found in manifests(name).objects]
    (monitor,) = manifests("production").kind("PodMonitor")
    spec = monitor["spec"] | {"podMetricsEndpoints": [{"port": "metrics", "intervall": "15s"}]}
    try:
        found = crds.mistakes([*crds.distinct(objects), monitor | {"spec": spec}])
    except crds.NoSchemas as error:
        pytest.skip(str(error))
    assert ["PodMonitor/scopewatch"] == [mistake.where for mistake in found]
    assert re.search("intervall.*does not exist", found[0].what)


def test_every_component_is_combined() -> None:
    """`make deploy-check` knows every component that there is, and some installation of these tests has each of them."""
    folders = {file.parent.name for file in (DEPLOY / "components").glob("*/kustomization.yaml")}
    assert folders == {*COMPONENTS, "names"}
    assert set(COMPONENTS) == {name for some in combinations() for name in some}
    named = {Path(path).name for overlay in ("gpu", "production") for path in _kustomization(overlay)["components"]}
    assert set(COMPONENTS) == named.union(*APART.values())


def _kustomization(overlay: str) -> dict[str, list[str]]:
    return dict(yaml.safe_load((DEPLOY / "overlays" / overlay / "kustomization.yaml").read_text(encoding="utf-8")))


def test_kustomizations_list_exactly_their_files() -> None:
    """No manifest lies in a folder without being applied, and none is applied that is missing."""
    for file in [
        DEPLOY / "base" / "kustomization.yaml",
        *DEPLOY.glob("[co]*/*/kustomization.yaml"),
        DEPLOY / "monitoring" / "kustomization.yaml",
    ]:
        kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
        listed = [name for key in ("resources", "components", "configurations") for name in kustomization.get(key, [])]
        listed += [
            one["path"] for key in ("patches", "replacements") for one in kustomization.get(key, []) if "path" in one
        ]
        for generator in kustomization.get("configMapGenerator", []):
            listed += [*generator.get("envs", []), *generator.get("files", [])]
        here = {path.name for path in file.parent.iterdir() if path.is_file()} - {"kustomization.yaml"}
        here |= {f"dashboards/{path.name}" for path in file.parent.glob("dashboards/*")}
        assert here == {name for name in listed if not name.startswith("..")}, file
        assert [] == [name for name in listed if not (file.parent / name).exists()], file


def test_the_example_watchlist_is_the_starter() -> None:
    """What the component shows is the watchlist that deploy/watchlists explains; Kustomize reads no files from there."""
    example = DEPLOY / "components" / "watchlists" / "watchlist.yaml"
    assert (DEPLOY / "watchlists" / "gemma-2-2b-it-entities.yaml").read_bytes() == example.read_bytes()


def test_the_prometheus_rule_is_made_of_the_rule_files() -> None:
    """What the operator is given says what the files say that Prometheus' own tool tests."""
    making = [sys.executable, str(ROOT / "tools" / "prometheusrule.py"), "--check"]
    made = subprocess.run(making, capture_output=True, text=True, check=False)
    assert (0, "up to date\n") == (made.returncode, made.stdout)


def test_secrets_of_the_base_are_explained(base: Manifests) -> None:
    """The README's command makes every key that the pods want."""
    wanted = {
        (volume["secret"]["secretName"], item["key"])
        for workload in base.workloads
        for volume in workload.volumes.values()
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    made = re.search(r"create secret generic (\S+)((?:.*\\\n)+.*)", README)
    assert made is not None
    assert {(made[1], key) for key in re.findall(r"--from-file=([\w-]+)=<", made[2])} == wanted


def test_gpu_overlay_gives_each_pod_a_gpu() -> None:
    """With the overlay a pod has one GPU, may run on GPU nodes, insists on the device and reads its own watchlist."""
    gpu = manifests("gpu")
    config = gpu.config()
    assert "1" == gpu.program["resources"]["limits"][GPU]
    assert [GPU] == [toleration["key"] for toleration in gpu.server.pod["tolerations"]]
    (claim,) = [v["persistentVolumeClaim"] for v in gpu.server.pod["volumes"] if "persistentVolumeClaim" in v]
    mounts = {mount["mountPath"]: mount for mount in gpu.program["volumeMounts"]}
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
    (container,) = base.cache.pod["containers"]
    changes = {old.replace("_", " "): new for old, new in replaced.items()}
    for mount in container["volumeMounts"]:
        (folder / mount["name"]).mkdir(exist_ok=True)
        changes[mount["mountPath"]] = str(folder / mount["name"])
    (folder / "secrets" / "redis-password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    words = [*container["command"], *container["args"]]
    for old, new in changes.items():
        assert any(old in word for word in words)
        words = [word.replace(old, new) for word in words]
    port = free_port()
    listens = "--tls-port" if "--tls-port" in words else "--port"
    command = [*words, listens, str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
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
        limit = int(base.cache.pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
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


@pytest.mark.system
async def test_redis_with_tls_is_asked_over_tls_alone(tmp_path: Path) -> None:
    """The component's Redis takes the program's cache with the component's URL, and neither plaintext nor another authority."""
    secured = manifests("production")
    authority, other = Authority(tmp_path / "authority"), Authority(tmp_path / "other")
    (tmp_path / "tls").mkdir()
    signed = authority.sign("scopewatch-redis")
    for name, file in {"tls.crt": signed.cert, "tls.key": signed.key, "ca.crt": authority.file}.items():
        (tmp_path / "tls" / name).write_bytes(file.read_bytes())
    url = secured.config().redis_url.get_secret_value()
    with deployed_redis(secured, tmp_path) as port:

        async def asked(url: str, trusted: Authority) -> bytes | None:
            here = url.replace("/run/secrets/redis-ca/ca.crt", str(trusted.file))
            here = re.sub(r"@[\w.-]+:\d+", f"@127.0.0.1:{port}", here)
            client = redis_client(here, mode="standalone", sentinel_service="", timeout_s=20.0, password=PASSWORD)
            try:
                await client.set_many([(f"{KEY_PREFIX}a", b"value", 60)])
                return (await client.get_many([f"{KEY_PREFIX}a"]))[0]
            finally:
                await client.close()

        assert b"value" == await asked(url, authority)
        with pytest.raises(redis.exceptions.ConnectionError, match="certificate"):
            await asked(url, other)
        with pytest.raises(redis.exceptions.ConnectionError):
            await asked(url.replace("rediss://", "redis://").partition("?")[0], authority)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
