"""What is expected of an image that serves: who it runs as, what it answers from outside, and how it ends."""

import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from engine import Engine
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scopewatch.client import Client, pb, request
from scopewatch.errors import ScopewatchError

USER = "65532:65532"
SERVICE = "scopewatch.v1.MonitorService"
GRACE_S = 60
"""How long a container has to end by itself, as terminationGracePeriodSeconds of the manifests."""
LONG = "It might be a sprain, or perhaps gout; I am not sure. " * 40
PAIRS_IN_FLIGHT = 32
PAIR = {"prompt": "What is it?", "response": "It might be gout, but I am not sure."}


@dataclass(frozen=True)
class Ports:
    """The ports of this machine that lead to a container's."""

    grpc: int
    metrics: int

    @property
    def options(self) -> tuple[str, ...]:
        return ("--publish", f"127.0.0.1:{self.grpc}:50051", "--publish", f"127.0.0.1:{self.metrics}:9464")


def expect(what: str, held: object, seen: object = "") -> None:
    """Says that something holds, or ends this program with what was seen."""
    if not held:
        raise SystemExit(f"NOT SO: {what}\n{seen}")
    print(f"  {what}", flush=True)


def check_described(engine: Engine, tag: str) -> None:
    """What the image says of itself, and what lies in it."""
    about = engine.described(tag)
    expect(f"it runs as {USER}", about["User"] == USER, about)
    expect("its entry point is the program", about["Entrypoint"] == ["scopewatch"], about)
    written = "find / -xdev -type d -writable -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null; find / -xdev -user 65532 2>/dev/null"
    ended = engine.tried("run", "--rm", "--network", "none", "--entrypoint", "sh", tag, "-c", written)
    places = set(ended.stdout.split())
    expect(
        "its user owns nothing, and may write where everybody may", places <= {"/tmp", "/var/tmp", "/run/lock"}, places
    )
    about_itself = engine.run(tag, "--version")
    expect("it tells its version", about_itself.stdout.startswith("scopewatch 0."), about_itself.stdout)


def check_refuses_plaintext(engine: Engine, tag: str) -> None:
    """Started without settings it would serve others in plaintext: it says so and does not start."""
    ended = engine.run(tag)
    expect(
        "it does not serve others in plaintext unless told to",
        ended.returncode and "plaintext" in ended.stdout,
        ended.stdout,
    )


def check_serves(engine: Engine, tag: str) -> None:
    """A client outside the container is answered, and calls in flight are when the container is stopped."""
    ports = Ports(_free_port(), _free_port())
    options = (
        *ports.options,
        "--env",
        "SCOPEWATCH_INSECURE=true",
        "--env",
        f"SCOPEWATCH_DRAIN_GRACE_S={GRACE_S - 10}",
        "--memory",
        "2g",
    )
    with engine.started(tag, options=options) as name, Client(f"127.0.0.1:{ports.grpc}", timeout_s=GRACE_S) as client:
        await_that(lambda: _health(ports, SERVICE) == "SERVING", 300, lambda: engine.tried("logs", name).stdout)
        expect("health is SERVING for the process and for the service", _health(ports, "") == "SERVING")
        reply = client.score(**PAIR)
        expect("a client outside gets a verdict", reply.indicators, reply)
        scraped = _metrics(ports)
        expect(
            "metrics can be scraped",
            re.search(r"^scopewatch_pairs_total\{.*\} 1\.0$", scraped, re.MULTILINE),
            scraped[-2000:],
        )
        processes = engine.podman(
            "exec",
            name,
            "python",
            "-c",
            "print(open('/proc/1/cmdline').read().replace(chr(0), ' '), open('/proc/1/status').read())",
        )
        expect(
            "the program is the first process, not root, without capabilities",
            re.search(r"scopewatch serve.*Uid:\s+65532.*CapEff:\s+0+\n.*NoNewPrivs:\s+1", processes, re.DOTALL),
            processes,
        )
        scored = engine.podman("exec", name, "scopewatch", "score", "--response", PAIR["response"])
        expect("`scopewatch score` in the container asks it", "speculation" in scored, scored)
        _check_drains(engine, name, ports, client)


def _check_drains(engine: Engine, name: str, ports: Ports, client: Client) -> None:
    """The container is stopped while a call is answered."""
    replies: list[pb.ScoreResponse | ScopewatchError] = []
    pairs = [request(response=f"{number}. {LONG}") for number in range(PAIRS_IN_FLIGHT)]
    calling = threading.Thread(target=lambda: replies.extend(client.score_batch(pairs)))
    calling.start()
    await_that(lambda: _in_flight(ports) == 1, 60, lambda: _metrics(ports))
    engine.podman("stop", "--time", str(GRACE_S), name)
    calling.join(timeout=GRACE_S)
    log = "\n".join(line for line in engine.tried("logs", name).stdout.splitlines() if '"flagged"' not in line)
    answered = [reply for reply in replies if isinstance(reply, pb.ScoreResponse)]
    expect(
        f"stopped with a call of {PAIRS_IN_FLIGHT} pairs in flight, it answers all of them",
        len(answered) == PAIRS_IN_FLIGHT,
        log[-2000:],
    )
    code = engine.podman("inspect", "--format", "{{.State.ExitCode}}", name).strip()
    expect("and ends with 0, before it is killed", code == "0", log[-2000:])
    expect("having said that it drains", "draining" in log, log[-2000:])


def _in_flight(ports: Ports) -> float:
    """The number of BatchScore calls that have begun and are not answered."""
    counts = re.findall(
        r'^grpc_server_(started|handled)_total\{.*"BatchScore".*\} (\S+)$', _metrics(ports), re.MULTILINE
    )
    return sum(float(count) if what == "started" else -float(count) for what, count in counts)


def _health(ports: Ports, service: str) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.RpcError as error:
            return str(error.code())
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def _metrics(ports: Ports) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{ports.metrics}/metrics", timeout=30) as page:
        return str(page.read().decode())


def await_that(condition: Callable[[], object], timeout_s: float, seen: Callable[[], str]) -> None:
    """Waits until a condition holds; ends this program with what is to be seen where it does not."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"nothing after {timeout_s:.0f} s\n{seen()[-4000:]}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
