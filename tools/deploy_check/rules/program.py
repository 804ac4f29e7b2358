"""What the program itself would say of its settings, arguments, files, probes and end."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path, PurePosixPath

from deploy_check.manifests import Manifests
from deploy_check.mistakes import Mistake
from deploy_check.rules.selectors import PROBES, ports_of
from scopewatch.cli import _parser
from scopewatch.config import Config
from scopewatch.doors.grpc.service import SERVICE_NAME
from scopewatch.errors import ConfigError, WatchlistError
from scopewatch.watch.watchlist import load_watchlist

MIN_STARTUP_S = 300
SPARE_S = 5
FILES = ("tls_cert", "tls_key", "tls_client_ca", "roles")
PROVIDED = ("persistentVolumeClaim", "image")
"""Volumes whose files nobody knows here."""


def settings_load(manifests: Manifests) -> Iterator[Mistake]:
    """The program accepts every setting it is given."""
    try:
        manifests.config()
    except ConfigError as error:
        for problem in str(error).split("; "):
            yield Mistake(manifests.server.where, problem, "see `scopewatch serve --help`")


def settings_of(manifests: Manifests) -> Config | None:
    """The settings; None where they do not load, which is said already."""
    try:
        return manifests.config()
    except ConfigError:
        return None


def command_lines_parse(manifests: Manifests) -> Iterator[Mistake]:
    """The arguments of each container that runs the program's image are a command that it has; the server's is `serve`."""
    for workload in manifests.workloads:
        for container in workload.containers:
            if container["image"].rpartition("/")[2].partition(":")[0].partition("@")[0] != "scopewatch":
                continue
            runs, wrong = _command(tuple(container.get("args", ())))
            if wrong:
                yield Mistake(workload.at(container, "args"), wrong, "see `scopewatch --help`")
            elif container is manifests.program and runs != "scopewatch.cli.serve":
                yield Mistake(workload.at(container, "args"), "do not serve", "begin them with serve")


@cache
def _command(args: tuple[str, ...]) -> tuple[str, str]:
    """The module that runs a command line, or what is wrong with it."""
    told = io.StringIO()
    try:
        with redirect_stderr(told), redirect_stdout(told):
            return _parser().parse_args(list(args)).run.__module__, ""
    except SystemExit:
        return "", told.getvalue().strip().splitlines()[-1]


def server_listens_where_its_ports_are(manifests: Manifests) -> Iterator[Mistake]:
    """The addresses in the settings are those of the ports that the pod declares, and reachable from outside."""
    if (config := settings_of(manifests)) is None:
        return
    addresses = {"grpc": config.grpc_address, "metrics": config.metrics_address, "health": config.health_address}
    declared = ports_of(manifests.server)
    for name, address in addresses.items():
        wanted = f"0.0.0.0:{declared[name]}" if name in declared else ""
        if address != wanted:
            what = f"has the port {name} at {declared.get(name)}, and the settings say {address or 'none'}"
            yield Mistake(manifests.server.where, what, f"set SCOPEWATCH_{name.upper()}_ADDRESS={wanted}")


def probes_ask_the_health_of_the_program(manifests: Manifests) -> Iterator[Mistake]:
    """Start-up and readiness ask whether pairs are accepted, liveness only whether the process answers, in plaintext."""
    if (config := settings_of(manifests)) is None:
        return
    server = manifests.server
    port = int((config.health_address or config.grpc_address).rpartition(":")[2])
    for probe in PROBES:
        wanted = {"port": port, "service": "" if probe == "livenessProbe" else SERVICE_NAME}
        asked = manifests.program.get(probe, {}).get("grpc")
        if asked != wanted:
            yield Mistake(server.at(manifests.program, probe), f"asks {asked}", f"ask {wanted}")
    startup = manifests.program.get("startupProbe", {})
    time_s = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
    if time_s < MIN_STARTUP_S:
        what = f"gives {time_s} s to load the reader"
        yield Mistake(server.at(manifests.program, "startupProbe"), what, f"give {MIN_STARTUP_S} s or more")


def _pre_stop_s(manifests: Manifests) -> float:
    return float(manifests.program.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))


def shutdown_fits_the_grace_period(manifests: Manifests) -> Iterator[Mistake]:
    """A pod is killed only after preStop, drain delay and drain grace have had their time, with some to spare."""
    if (config := settings_of(manifests)) is None:
        return
    needed_s = _pre_stop_s(manifests) + config.drain_delay_s + config.drain_grace_s + SPARE_S
    given_s = manifests.server.pod.get("terminationGracePeriodSeconds", 30)
    if given_s < needed_s:
        what = f"is killed after {given_s} s, and needs {needed_s:g} s to end"
        yield Mistake(manifests.server.where, what, "raise terminationGracePeriodSeconds")


def readiness_is_noticed_while_draining(manifests: Manifests) -> Iterator[Mistake]:
    """Connections stop coming before the server refuses them: preStop and drain delay outlast the readiness probe."""
    if (config := settings_of(manifests)) is None:
        return
    probe = manifests.program.get("readinessProbe", {})
    noticed_s = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    pause_s = _pre_stop_s(manifests) + config.drain_delay_s
    if pause_s < noticed_s:
        what = f"refuses {pause_s:g} s after it was told to end, and that is noticed after {noticed_s} s"
        yield Mistake(manifests.server.where, what, "lengthen preStop or SCOPEWATCH_DRAIN_DELAY_S")


def named_files_are_mounted(manifests: Manifests) -> Iterator[Mistake]:
    """Every file that a setting names lies in a volume, and where the manifests say what is in it, under this name."""
    if (config := settings_of(manifests)) is None:
        return
    server, program = manifests.server, manifests.program
    there = {path for path, _, _ in manifests.files(server, program)}
    unknown = [
        PurePosixPath(mount["mountPath"])
        for mount in program.get("volumeMounts", ())
        if any(kind in server.volumes.get(mount["name"], {}) for kind in PROVIDED)
    ]
    named = {name: [str(getattr(config, name))] for name in FILES if getattr(config, name)}
    given = manifests.environment(program)
    for name in ("watchlist", "shadow"):
        if f"SCOPEWATCH_{name.upper()}" in given:
            named[name] = [str(file) for file in getattr(config, name)]
    for name, files in named.items():
        for file in files:
            if file not in there and not any(folder in PurePosixPath(file).parents for folder in unknown):
                what = f"SCOPEWATCH_{name.upper()} names {file}, which no volume holds"
                yield Mistake(server.where, what, f"there is {', '.join(sorted(there)) or 'none'}")


def watchlists_load(manifests: Manifests) -> Iterator[Mistake]:
    """Watchlists in ConfigMaps are ones that the program reads; the bags of words that they name lie beside them."""
    config = settings_of(manifests)
    named = {str(file) for file in (*config.watchlist, *config.shadow)} if config else set()
    for path, volume, key in manifests.files(manifests.server, manifests.program):
        if "configMap" not in volume or path not in named:
            continue
        held = manifests.named("ConfigMap").get(volume["configMap"]["name"], {}).get("data", {})
        with tempfile.TemporaryDirectory() as folder:
            for name, text in held.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            try:
                load_watchlist(Path(folder) / key)
            except WatchlistError as error:
                what = str(error).replace(f"{folder}/", "").replace("\n", "; ")
                yield Mistake(f"ConfigMap/{volume['configMap']['name']}", what, "see `scopewatch watchlist check`")


def engine_has_its_cpus(manifests: Manifests) -> Iterator[Mistake]:
    """The engine has no more threads than the pod asks CPUs for; else it would take every core of the node."""
    if (config := settings_of(manifests)) is None:
        return
    asked = str(manifests.program.get("resources", {}).get("requests", {}).get("cpu", "0"))
    cpus = float(asked.removesuffix("m")) / (1000 if asked.endswith("m") else 1)
    if not 0 < config.torch_threads <= max(cpus, 1):
        what = f"asks for {asked} CPUs and computes with {config.torch_threads or 'as many threads as the node has'}"
        yield Mistake(manifests.server.where, what, "set SCOPEWATCH_TORCH_THREADS to that or fewer")
