"""Certificates: which are taken, how they change while the service runs, and whom the gRPC port lets in with them."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from certificates import DAY, NOW, Authority, ExtendedKeyUsageOID, Files
from conftest import House
from listening import ask, listening, outcome, trusting
from scopewatch.config import load_config
from scopewatch.doors.tls import Certificates
from scopewatch.errors import ConfigError
from scopewatch.metrics import Metrics
from servers import NO_RETRIES, config, eventually, serving

READ = "scopewatch_certificate_reads_total"
EXPIRY = "scopewatch_certificate_expiry_timestamp_seconds"


class Read:
    """Certificates of files, with what metrics say of them."""

    def __init__(self, files: Files, client_ca: Path | None = None) -> None:
        self._registry = CollectorRegistry()
        self.metrics = Metrics(self._registry)
        self.certificates = Certificates(files.cert, files.key, client_ca, metrics=self.metrics)

    def sample(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(name, labels)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


# Reading files


def test_the_expiry_is_a_metric(authority: Authority) -> None:
    """When the certificate expires is a metric, to the second; without TLS the series is not there."""
    ends = (NOW + 7 * DAY).replace(microsecond=0)
    read = Read(authority.sign(ends=ends))

    assert read.sample(EXPIRY, setting="tls_cert") == ends.timestamp()
    assert EXPIRY + "{" not in Metrics().page("").body.decode()


def broken(files: Files, authority: Authority, other: Authority) -> dict[str, Callable[[], object]]:
    """Ways to break the files of a certificate, by what is said of them."""
    return {
        "cannot be read: No such file": files.cert.unlink,
        "its private key: key values mismatch": lambda: files.key.write_bytes(other.sign().key.read_bytes()),
        "is encrypted": lambda: files.replace_with(authority.sign("locked", password=b"secret")),
        "no certificate in PEM": lambda: files.cert.write_bytes(files.cert.read_bytes()[:200]),
        "certificate has expired": lambda: files.replace_with(authority.sign("old", ends=NOW - timedelta(minutes=1))),
        "is not yet valid": lambda: files.replace_with(authority.sign("early", begins=NOW + DAY)),
        "certificate purpose": lambda: files.replace_with(
            authority.sign("client", uses=(ExtendedKeyUsageOID.CLIENT_AUTH,))
        ),
    }


WAYS = tuple(broken(Files(Path(), Path()), None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("said", WAYS)
def test_files_that_are_not_in_order_are_refused(authority: Authority, tmp_path: Path, said: str) -> None:
    """A certificate that no client would take, or whose key is not its own, stops the start, with setting and file."""
    files = authority.sign()
    broken(files, authority, Authority(tmp_path / "other"))[said]()
    with pytest.raises(ConfigError, match=said) as refused:
        Read(files)

    assert "tls_cert " in str(refused.value) or "tls_key " in str(refused.value)
    assert str(files.cert) in str(refused.value) or str(files.key) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_signers_that_are_not_in_order_are_refused(authority: Authority, tmp_path: Path, content: bytes) -> None:
    """A file of signers that holds none stops the start."""
    client_ca = tmp_path / "ca.pem"
    client_ca.write_bytes(content)
    with pytest.raises(ConfigError, match=f"tls_client_ca {client_ca}: holds no certificates in PEM"):
        Read(authority.sign(), client_ca)


@pytest.mark.parametrize("said", WAYS)
def test_a_broken_replacement_keeps_the_old_one(
    authority: Authority, tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What would stop a start leaves a running service as it is; the log says so once, and a metric at every look."""
    files = authority.sign()
    read = Read(files)
    before = read.certificates.current
    broken(files, authority, Authority(tmp_path / "other"))[said]()
    read.certificates.look()
    read.certificates.look()

    assert read.certificates.current is before
    (line,) = caplog.records
    assert (line.levelname, said in line.getMessage()) == ("ERROR", True)
    assert read.sample(READ, result="refused") == 2

    files.replace_with(authority.sign("good"))
    read.certificates.look()
    assert read.certificates.current is not before


def test_what_did_not_change_is_not_loaded_again(authority: Authority) -> None:
    """Looking at the same files, however often, changes nothing."""
    read = Read(authority.sign())
    before = read.certificates.current
    read.certificates.look()

    assert read.certificates.current is before
    assert read.sample(READ, result="ok") == 1


def test_a_volume_of_kubernetes_is_followed(authority: Authority, tmp_path: Path) -> None:
    """The files of a Secret change by one exchange of a link beside them; the new ones are taken."""
    for number, name in enumerate(("first", "second")):
        files, version = authority.sign(name, ends=NOW + (number + 1) * DAY), tmp_path / name
        version.mkdir()
        files.cert.rename(version / "tls.crt")
        files.key.rename(version / "tls.key")
    (tmp_path / "..data").symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    read = Read(Files(tmp_path / "tls.crt", tmp_path / "tls.key"))
    before_s = read.sample(EXPIRY, setting="tls_cert")

    (tmp_path / "..new").symlink_to("second")
    (tmp_path / "..new").replace(tmp_path / "..data")
    read.certificates.look()

    assert before_s
    assert read.sample(EXPIRY, setting="tls_cert") == before_s + DAY.total_seconds()


def test_files_that_change_while_they_are_read_wait_for_the_next_look(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of one time is never shown with the key of another, whenever the files change."""
    files, second, third = authority.sign(), authority.sign("second"), authority.sign("third")
    read = Read(files)
    before, real = read.certificates.current, ssl.SSLContext.load_cert_chain

    def load(context: ssl.SSLContext, *args: object, **options: object) -> None:
        real(context, *args, **options)  # type: ignore[arg-type]
        files.replace_with(third)

    files.replace_with(second)
    with monkeypatch.context() as while_loading:
        while_loading.setattr(ssl.SSLContext, "load_cert_chain", load)
        read.certificates.look()
    assert read.certificates.current is before

    read.certificates.look()
    assert read.certificates.current.pem.key == third.key.read_bytes()


async def test_files_are_looked_at_while_the_service_runs(authority: Authority) -> None:
    """With `watch_files_s` new files are taken without a connection; with 0 they never are."""
    files = authority.sign()
    read, never = Read(files), Read(files)
    async with read.certificates.watched(0.01), never.certificates.watched(0):
        files.replace_with(authority.sign("second"))
        await eventually(lambda: read.sample(READ, result="ok") == 2, "the new certificate was not taken")

    assert never.sample(READ, result="ok") == 1


# The gRPC port


def shown_at(address: str, authority: Authority) -> str:
    """The common name of the certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.file), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string().removeprefix("CN=")


async def test_tls_is_spoken_where_there_is_a_certificate(authority: Authority, tmp_path: Path) -> None:
    """Whoever trusts the signer is answered; plaintext and whoever trusts a signer of the same name are not."""
    forger = Authority(tmp_path / "forger")
    async with listening(Read(authority.sign()).certificates) as at:
        address = at["grpc_address"]
        ends = [await outcome(address, c) for c in (trusting(authority), trusting(forger), None)]

    assert ends == ["answered", "UNAVAILABLE", "UNAVAILABLE"]


async def test_callers_show_certificates_where_their_signer_is_named(authority: Authority, tmp_path: Path) -> None:
    """With `tls_client_ca` only a valid certificate of that signer lets in: none, forged, expired, early ones do not."""
    clients, forger = Authority(tmp_path / "clients"), Authority(tmp_path / "forger")
    shown = {
        "right": clients.sign("app"),
        "none": None,
        "forged": forger.sign("app"),
        "of the server's signer": authority.sign("app"),
        "expired": clients.sign("old", ends=NOW - timedelta(minutes=1)),
        "not yet valid": clients.sign("early", begins=NOW + DAY),
        "not for clients": clients.sign("server", uses=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    }
    async with listening(Read(authority.sign(), clients.file).certificates) as at:
        ends = {name: await outcome(at["grpc_address"], trusting(authority, files)) for name, files in shown.items()}

    assert ends == dict.fromkeys(shown, "UNAVAILABLE") | {"right": "answered"}


async def test_a_rotated_certificate_is_shown_to_new_connections(authority: Authority) -> None:
    """After a rotation new connections see the new certificate, and those that were open go on."""
    files = authority.sign("first")
    read = Read(files)
    async with listening(read.certificates) as at:
        address = at["grpc_address"]
        async with grpc.aio.secure_channel(address, trusting(authority), options=NO_RETRIES) as channel:
            await ask(channel)
            seen = [await asyncio.to_thread(shown_at, address, authority)]
            files.replace_with(authority.sign("second"))
            read.certificates.look()
            seen.append(await asyncio.to_thread(shown_at, address, authority))
            await ask(channel)

    assert seen == ["first", "second"]


async def test_callers_of_a_rotated_signer_are_let_in(authority: Authority, tmp_path: Path) -> None:
    """When `tls_client_ca` changes, the new signer's callers are let in and the old one's are not."""
    first, second = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    client_ca = tmp_path / "ca.pem"
    client_ca.write_bytes(first.file.read_bytes())
    read = Read(authority.sign(), client_ca)
    apps = [trusting(authority, ca.sign("app")) for ca in (first, second)]
    async with listening(read.certificates) as at:
        before = [await outcome(at["grpc_address"], app) for app in apps]
        client_ca.write_bytes(second.file.read_bytes())
        read.certificates.look()
        after = [await outcome(at["grpc_address"], app) for app in apps]

    assert (before, after) == (["answered", "UNAVAILABLE"], ["UNAVAILABLE", "answered"])


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_cert": "c"}, "tls_cert and tls_key belong together"),
        ({"tls_key": "k"}, "tls_cert and tls_key belong together"),
        ({"tls_client_ca": "ca"}, "set tls_cert and tls_key too"),
    ],
)
def test_settings_of_tls_come_together(settings: dict[str, str], said: str) -> None:
    """A certificate without a key, a key without a certificate, and signers without either are refused."""
    with pytest.raises(ConfigError, match=said):
        load_config(settings, {})


async def test_the_whole_service_speaks_tls(house: House, authority: Authority) -> None:
    """With `tls_cert` gRPC and metrics show the certificate, and follow it when its files change."""
    files = authority.sign("first")
    settings = config(house.watchlist, tls_cert=str(files.cert), tls_key=str(files.key), watch_files_s=0.05)
    async with serving(settings) as server:
        addresses = (server.grpc_address, server.metrics_address)
        seen = [await asyncio.to_thread(shown_at, address, authority) for address in addresses]
        files.replace_with(authority.sign("second"))

        def both_new() -> bool:
            return [shown_at(address, authority) for address in addresses] == ["second", "second"]

        await eventually(both_new, "the new certificate is not shown")

    assert seen == ["first", "first"]
