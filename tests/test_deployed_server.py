"""A real server with the settings of the production overlay, on volumes that change as a kubelet changes them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf.message import Message

from certificates import Authority
from conftest import House, free_port, watchlist_document
from deployed import manifests
from listening import trusting
from scopewatch.doors.role_file import token_digest
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc
from servers import NO_RETRIES, LocalServer, config, eventually, health, serving

TOKEN = f"swt_backend_{'x' * 40}"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


class Volume:
    """A ConfigMap or a Secret as a kubelet mounts it: files are links into `..data`, a link that is swapped as a whole.

    Args:
        folder: Where it is mounted.
        files: The content of each file.
    """

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._versions = 0
        folder.mkdir(parents=True)
        self.put(files)
        for name in files:
            (folder / name).symlink_to(f"..data/{name}")

    def put(self, files: Mapping[str, bytes]) -> None:
        """Puts other files in the place of all there are."""
        self._versions += 1
        version = self._folder / f"..version_{self._versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")


class Pod:
    """The volumes of the production overlay's server under a folder, and the settings that name them.

    Args:
        folder: The pod's root.
        house: The reader and the SAEs, in place of those on the hub.
    """

    def __init__(self, folder: Path, house: House) -> None:
        self._house = house
        self.authority = Authority(folder / "authority")
        deployed = manifests("production").config()
        paths = {name: Path(getattr(deployed, name)) for name in ("tls_cert", "tls_key", "roles")}
        (watchlist,) = deployed.watchlist
        here = {name: folder / path.relative_to("/") for name, path in {**paths, "watchlist": watchlist}.items()}
        self.certificates = Volume(here["tls_cert"].parent, self.certificate("first"))
        caller = {"name": "backend", "tokens": [token_digest(TOKEN)], "roles": ["score", "metrics"]}
        Volume(here["roles"].parent, {here["roles"].name: yaml.safe_dump({"version": 1, "callers": [caller]}).encode()})
        self.watchlists = Volume(here["watchlist"].parent, self.watchlist(1.0))
        self.settings = config(
            here["watchlist"],
            **{name: str(here[name]) for name in paths},
            **{name: getattr(deployed, name) for name in ("insecure", "drain_grace_s", "cache_secret")},
            health_address=f"127.0.0.1:{free_port()}",
            watch_files_s=0.02,
            device="cpu",
            pack_dir="",
        )

    def certificate(self, name: str) -> dict[str, bytes]:
        signed = self.authority.sign(name)
        return {"tls.crt": signed.cert.read_bytes(), "tls.key": signed.key.read_bytes()}

    def watchlist(self, threshold: float) -> dict[str, bytes]:
        document = watchlist_document()
        document["reader"] = {"path": str(self._house.reader)}
        document["saes"] = {name: {"path": str(path)} for name, path in self._house.saes.items()}
        document["indicators"][0]["threshold"] = threshold
        return {"watchlist.yaml": yaml.safe_dump(document, sort_keys=False).encode()}

    @asynccontextmanager
    async def stub(self, server: LocalServer) -> AsyncIterator[monitor_pb2_grpc.MonitorServiceStub]:
        async with grpc.aio.secure_channel(
            server.grpc_address, trusting(self.authority), options=NO_RETRIES
        ) as channel:
            yield monitor_pb2_grpc.MonitorServiceStub(channel)


async def scored(stub: monitor_pb2_grpc.MonitorServiceStub, number: int) -> tuple[Message, set[float]]:
    """What a reply of several pairs says that it was judged by, and the thresholds in it."""
    asked = [pb.ScoreRequest(response=f"It may be gout, perhaps {number} {pair}.") for pair in range(3)]
    metadata = [("authorization", f"Bearer {TOKEN}")]
    reply = await stub.BatchScore(pb.BatchScoreRequest(requests=asked), metadata=metadata, timeout=60)
    (said,) = {(p.watchlists_version, p.watchlist_digest) for p in (one.response.provenance for one in reply.results)}
    return said, {one.response.indicators[0].threshold for one in reply.results}


async def test_probes_of_the_manifests_are_answered_in_plaintext(house: House, tmp_path: Path) -> None:
    """Every probe of the pod gets SERVING from the health port, while the port of the calls speaks TLS alone."""
    pod = Pod(tmp_path, house)
    program = manifests("production").program
    async with serving(pod.settings) as server:
        for probe in PROBES:
            assert "SERVING" == await health(pod.settings.health_address, program[probe]["grpc"]["service"])
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(health(server.grpc_address, ""), 20)


async def test_a_changed_config_map_is_taken_over_and_never_mixed(house: House, tmp_path: Path) -> None:
    """While callers ask, the link of the ConfigMap is swapped twice; every reply is of one version, whole, and the last is the last."""
    pod = Pod(tmp_path, house)
    told: list[tuple[object, frozenset[float]]] = []
    async with serving(pod.settings) as server, pod.stub(server) as stub:
        for version, threshold in ((2, 0.25), (3, 0.75)):
            pod.watchlists.put(pod.watchlist(threshold))
            while not told or told[-1][0][0] < version:
                said, thresholds = await scored(stub, len(told))
                told.append((said, frozenset(thresholds)))
    judged_by = {version: {entry for entry in told if entry[0][0] == version} for version in (1, 2, 3)}
    assert [1, 1] == [len(judged_by[version]) for version in (2, 3)], "one digest and one threshold for each version"
    assert [frozenset({0.25}), frozenset({0.75})] == [next(iter(judged_by[version]))[1] for version in (2, 3)]
    assert {2, 3} <= {said[0] for said, _ in told} <= {1, 2, 3}


async def test_a_renewed_secret_is_taken_over(house: House, tmp_path: Path) -> None:
    """A certificate that cert-manager renews is what the next connection is shown; nobody has to restart anything."""
    pod = Pod(tmp_path, house)
    async with serving(pod.settings) as server:

        def shown() -> bytes:
            host, _, port = server.grpc_address.rpartition(":")
            return ssl.get_server_certificate((host, int(port)), ca_certs=str(pod.authority.file)).encode()

        renewed = pod.certificate("second")
        assert renewed["tls.crt"] != await asyncio.to_thread(shown)
        pod.certificates.put(renewed)
        await eventually(lambda: shown() == renewed["tls.crt"], "the old certificate is shown")
        async with pod.stub(server) as stub:
            await scored(stub, 0)
