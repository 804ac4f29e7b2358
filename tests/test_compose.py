"""deploy/compose: what one `docker compose up` would start, checked without Docker; Redis and Prometheus are real."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import scopewatch
from conftest import need
from dockerfile import ROOT, environment, last, stages
from scopewatch.config import ENV_PREFIX, Config, load_config

FOLDER = ROOT / "deploy" / "compose"
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """What a service finds where: paths in the container, with the path or the volume that is mounted there."""
    parts = [volume.removesuffix(":ro").rsplit(":", 1) for volume in service.get("volumes", ())]
    return {there: here for here, there in parts}


def settings(folder: Path) -> Config:
    """The settings that the program loads, with secrets in a folder."""
    own = {k: v for k, v in SERVICES["scopewatch"]["environment"].items() if k.startswith(ENV_PREFIX)}
    for name, secret in COMPOSE["secrets"].items():
        assert f"./secrets/{name}" == secret["file"]
        (folder / name).write_text(f"secret-{name}\n", encoding="utf-8")
    in_image = {k: v for k, v in environment("cpu").items() if k.startswith(ENV_PREFIX)}
    return load_config(environ=in_image | {k: v.replace("/run/secrets", str(folder)) for k, v in own.items()})


def test_what_is_mounted_is_in_the_checkout_and_read_only() -> None:
    """Every file and folder of the checkout that a container gets exists, and no container may change it."""
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            if volume.startswith("."):
                assert volume.endswith(":ro"), volume
    named = [here for service in SERVICES.values() for here in mounts(service).values()]
    assert {here for here in named if not here.startswith(".")} == COMPOSE["volumes"].keys()
    files = [here for here in named if here.startswith(".") and not here.startswith("../monitoring")]
    assert [] == [here for here in files if not (FOLDER / here).is_file()]


def test_rules_and_dashboards_are_where_they_are_mounted_from() -> None:
    """The folders of rules and dashboards have some in them."""
    folders = [here for service in SERVICES.values() for here in mounts(service).values() if "monitoring" in here]
    assert 2 == len(folders)
    assert [] == [here for here in folders if not list((FOLDER / here).glob("*.*"))]


def test_containers_are_hardened() -> None:
    """No container is root or gains rights, none writes to its root, and no port is open to other machines."""
    for name, service in SERVICES.items():
        assert (True, ["ALL"], ["no-new-privileges:true"]) == tuple(
            service[key] for key in ("read_only", "cap_drop", "security_opt")
        ), name
        assert [] == [port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")], name
        assert {"privileged", "network_mode", "pid", "cap_add"}.isdisjoint(service), name
        assert "healthcheck" in service, name
    assert "999:999" == SERVICES["redis"]["user"]
    assert "ports" not in SERVICES["redis"]


def test_images_name_a_release() -> None:
    """No image is a moving one; the program's is built from this checkout's own target, at its version."""
    assert [] == [s["image"] for s in SERVICES.values() if not re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", s["image"])]
    own = SERVICES["scopewatch"]
    assert f"scopewatch:{scopewatch.__version__}" == own["image"]
    assert ROOT == (FOLDER / own["build"]["context"]).resolve()
    assert own["build"]["target"] in stages()
    assert own["build"]["args"].keys() <= {rest.partition("=")[0] for rest in stages()["build"].all("ARG")}


def test_settings_load_and_ports_lead_to_the_program(tmp_path: Path) -> None:
    """The program accepts every setting, reads its secrets from files, and listens where the ports lead."""
    config = settings(tmp_path)
    assert "secret-cache-secret" == config.cache_secret.get_secret_value()
    assert "secret-redis-password" == config.redis_password.get_secret_value()
    assert "redis://scopewatch@redis:6379/0" == config.redis_url.get_secret_value()
    inside = [port.rpartition(":")[2] for port in SERVICES["scopewatch"]["ports"]]
    assert [f"0.0.0.0:{port}" for port in inside] == [config.grpc_address, config.metrics_address]
    assert inside == last("cpu", "EXPOSE").split()
    grace_s = float(SERVICES["scopewatch"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= config.drain_delay_s + config.drain_grace_s + 5


def test_secrets_are_files_and_each_service_gets_its_own() -> None:
    """No secret is in a variable; Redis does not get the one that signs what it holds; none is in the repository."""
    assert {
        "scopewatch": ["redis-password", "cache-secret"],
        "redis": ["redis-password"],
        "grafana": ["grafana-password"],
    } == {name: service["secrets"] for name, service in SERVICES.items() if "secrets" in service}
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "deploy/compose/secrets/" in ignored
    made = re.search(r"for name in (.*?); do", (ROOT / "docs" / "image.md").read_text("utf-8"))
    assert made is not None
    assert set(made[1].split()) == COMPOSE["secrets"].keys()


def test_redis_is_started_as_in_the_cluster() -> None:
    """The script and the arguments are those of deploy/base/redis.yaml, of which the tests start a real Redis."""
    (deployment, *_) = yaml.safe_load_all((DEPLOY / "base" / "redis.yaml").read_text("utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    own = SERVICES["redis"]
    command = [word.replace("$$", "$").replace("/run/secrets/", "/run/secrets/redis/") for word in own["entrypoint"]]
    assert container["image"] == own["image"]
    assert (container["command"], container["args"]) == (command, own["command"])
    assert any(mount.startswith("/run/redis:") for mount in own["tmpfs"])


def test_prometheus_scrapes_the_service() -> None:
    """The target is the service's metrics port, and the job has the name that the rules look for."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    metrics = SERVICES["scopewatch"]["ports"][1].rpartition(":")[2]
    assert [{"targets": [f"scopewatch:{metrics}"]}] == job["static_configs"]
    assert "scopewatch" in job["job_name"]
    (rules,) = config["rule_files"]
    assert "../monitoring/rules" == mounts(SERVICES["prometheus"])[rules.rpartition("/")[0]]
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]


@pytest.mark.system
def test_prometheus_accepts_its_configuration_and_every_rule(tmp_path: Path) -> None:
    """promtool reads the configuration with the rules that are mounted, and finds some."""
    need("promtool")
    config = (FOLDER / "prometheus.yml").read_text("utf-8")
    here = config.replace("/etc/prometheus/rules", str(DEPLOY / "monitoring" / "rules"))
    (tmp_path / "prometheus.yml").write_text(here, "utf-8")
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == checked.returncode, checked.stdout + checked.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rules found", checked.stdout)


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    """What is provisioned leads to the Prometheus beside it, and to the folder where the dashboards are mounted."""
    grafana = mounts(SERVICES["grafana"])
    sources, providers = (
        yaml.safe_load((FOLDER / grafana[f"/etc/grafana/provisioning/{kind}/scopewatch.yaml"]).read_text("utf-8"))
        for kind in ("datasources", "dashboards")
    )
    assert ["http://prometheus:9090"] == [source["url"] for source in sources["datasources"]]
    assert ["../monitoring/dashboards"] == [grafana[one["options"]["path"]] for one in providers["providers"]]
    password = SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert [Path(password).name] == SERVICES["grafana"]["secrets"]


@pytest.mark.system
def test_compose_reads_the_file(tmp_path: Path) -> None:
    """Docker Compose, where it is installed, finds nothing that its schema does not know."""
    docker = ["docker", "compose"]
    if (
        shutil.which("docker")
        and subprocess.run([*docker, "version"], capture_output=True, check=False).returncode == 0
    ):
        command = docker
    elif shutil.which("docker-compose"):
        command = ["docker-compose"]
    else:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    # The first generation, which Debian has, knows no name of the whole.
    services = {key: value for key, value in COMPOSE.items() if key != "name"}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(services), "utf-8")
    asked = [*command, "--file", str(tmp_path / "compose.yaml"), "--project-directory", str(FOLDER), "config"]
    read = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert 0 == read.returncode, read.stderr
    assert SERVICES.keys() == yaml.safe_load(read.stdout)["services"].keys()
