"""What is encrypted, and whether both ends agree."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from deploy_check.manifests import Manifests, Workload, place
from deploy_check.mistakes import Mistake
from deploy_check.rules.program import settings_of


def plaintext_is_on_purpose(manifests: Manifests) -> Iterator[Mistake]:
    """The server speaks TLS or says that it does not; tokens are never taken in plaintext, and Services say which it is."""
    if (config := settings_of(manifests)) is None:
        return
    where = manifests.server.where
    if config.tls_cert and config.insecure:
        yield Mistake(where, "has a certificate and SCOPEWATCH_INSECURE", "set SCOPEWATCH_INSECURE=false")
    if config.roles and not config.tls_cert:
        yield Mistake(where, "takes tokens in plaintext", "add the component tls")
    wanted = "https" if config.tls_cert else "kubernetes.io/h2c"
    for service in manifests.kind("Service"):
        for port in service["spec"]["ports"]:
            if port["name"] == "grpc" and port.get("appProtocol") != wanted:
                what = f"says that its port grpc speaks {port.get('appProtocol')}"
                yield Mistake(place(service), what, f"set appProtocol: {wanted}")


def redis_is_reached(manifests: Manifests) -> Iterator[Mistake]:
    """The server asks the Redis that is deployed beside it, whatever it is called, as the user that Redis makes."""
    config = settings_of(manifests)
    if config is None or "$(" in config.redis_url.get_secret_value():
        return
    services = [found for found in manifests.kind("Service") if found["spec"]["ports"][0]["name"] == "redis"]
    url = urlsplit(config.redis_url.get_secret_value())
    where, cache = manifests.server.where, manifests.cache
    hosts = [f"{found['metadata']['name']}:{found['spec']['ports'][0]['port']}" for found in services]
    if f"{url.hostname}:{url.port}" not in hosts:
        yield Mistake(where, f"asks Redis at {url.hostname}:{url.port}", f"it is at {', '.join(hosts)}")
    script = " ".join(cache.container("redis").get("command", ()))
    if f'"user {url.username} on ' not in script:
        what = f"asks Redis as {url.username}, a user that it does not make"
        yield Mistake(where, what, "write the user that the command of its container makes")
    arguments = cache.container("redis").get("args", ())
    wanted = "rediss" if "--tls-port" in arguments else "redis"
    if url.scheme != wanted:
        yield Mistake(where, f"asks Redis by {url.scheme}://", f"it speaks {wanted}://")
    mounted = {path for path, _, _ in manifests.files(manifests.server, manifests.program)}
    for authority in parse_qs(url.query).get("ssl_ca_certs", ()):
        if authority not in mounted:
            yield Mistake(where, f"knows Redis by {authority}, which no volume holds", "mount it")
    passwords = {found for workload in (manifests.server, cache) for found in _passwords(manifests, workload)}
    if len(passwords) != 1:
        yield Mistake(where, f"and Redis read their password from {sorted(passwords)}", "mount one key in both")


def _passwords(manifests: Manifests, workload: Workload) -> list[tuple[str, str]]:
    """The secrets, and the keys in them, that a workload has a password from."""
    (container,) = workload.pod["containers"]
    return [
        (volume["secret"]["secretName"], key)
        for _, volume, key in manifests.files(workload, container)
        if "secret" in volume and "password" in key
    ]


def certificates_name_the_services(manifests: Manifests) -> Iterator[Mistake]:
    """What cert-manager signs is for the names that clients dial, and lies where a pod mounts it from."""
    namespaces = [found["metadata"]["name"] for found in manifests.kind("Namespace")]
    mounted = {
        volume["secret"]["secretName"]: workload
        for workload in manifests.workloads
        for volume in workload.volumes.values()
        if "secret" in volume and {"tls.key"} & {item["key"] for item in volume["secret"].get("items", ())}
    }
    for certificate in manifests.kind("Certificate"):
        secret, names = certificate["spec"]["secretName"], set(certificate["spec"]["dnsNames"])
        workload = mounted.get(secret)
        if workload is None:
            yield Mistake(
                place(certificate), f"goes into {secret}, which no pod mounts", "name the Secret that one does"
            )
            continue
        dialled = [
            s["metadata"]["name"]
            for s in manifests.kind("Service")
            if workload in manifests.selected(s["spec"]["selector"])
        ]
        wanted = set(dialled)
        if workload is not manifests.cache:
            wanted |= {f"{name}.{space}{end}" for name in dialled for space in namespaces for end in ("", ".svc")}
        if missing := sorted(wanted - names):
            what = f"is not for {', '.join(missing)}"
            yield Mistake(
                place(certificate), what, "add them to dnsNames, or put components/names around the kustomization"
            )
