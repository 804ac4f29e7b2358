"""The connection to Redis: one server, a cluster, or a master that sentinels name. Only this module knows redis-py."""

import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from scopewatch.errors import ConfigError

_MAX_CONNECTIONS = 32
_MAX_MESSAGE_CHARS = 200
_EXAMPLES = {
    "standalone": "redis://user:password@host:6379/0",
    "cluster": "redis://user:password@host:6379",
    "sentinel": "redis://user:password@host:26379,host:26379/0",
}


class RedisClient:
    """What the cache asks of Redis. Every failure is an exception, of redis-py's several roots or of the network.

    Args:
        connection: A standalone, sentinel-made or cluster client of redis-py, without retries of its own.
        secrets: What no log may hold, the longest first.
    """

    max_connections = _MAX_CONNECTIONS
    """To one server; whoever uses a client holds to it, for cluster and sentinel clients fail beyond it."""

    def __init__(self, connection: "Redis | RedisCluster", secrets: Sequence[str] = ()) -> None:
        self._connection = connection
        self._secrets = secrets

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Values in the order of their names; None for those that Redis does not hold, empty for what is no text.

        Raises:
            Exception: Redis does not answer, or answers something else.
        """
        if isinstance(self._connection, RedisCluster):
            values = await self._connection.mget_nonatomic(names)
        else:
            values = await self._connection.mget(names)
        if not isinstance(values, list) or len(values) != len(names):
            raise RedisError("MGET was answered with something else than a value for each key")
        return [value if value is None or isinstance(value, bytes) else b"" for value in values]

    async def set_many(self, items: Iterable[tuple[str, bytes, int]]) -> None:
        """Stores values.

        Args:
            items: The name, value and life in seconds of each.

        Raises:
            Exception: Redis does not take one of them.
        """
        pipeline = self._connection.pipeline(transaction=False)
        for name, value, ttl_s in items:
            pipeline.set(name, value, ex=ttl_s)
        await pipeline.execute()

    def loggable(self, error: Exception) -> str:
        """An error's message, at most 200 characters, without the URL and passwords, which a Redis may say back."""
        message = str(error)
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return message[:_MAX_MESSAGE_CHARS]

    async def close(self) -> None:
        """Closes every connection."""
        await self._connection.aclose()


def redis_client(url: str, *, mode: str, sentinel_service: str, timeout_s: float, password: str = "") -> RedisClient:
    """A client that gives up after `timeout_s` and never retries: the cache's breaker does better. Connects to nothing.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with redis-py's options as a query; in sentinel mode it may list
            several `host:port`, split by commas.
        mode: `standalone`, `cluster` or `sentinel`.
        sentinel_service: Name of the master, for sentinel mode.
        timeout_s: For connecting and for every answer.
        password: The password, where the URL holds none; in sentinel mode that of the master.

    Raises:
        ConfigError: The URL cannot be understood, or there are two passwords. The message shows nothing of them.
    """
    limits: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": _MAX_CONNECTIONS,
    }
    credentials: dict[str, Any] = {"password": password} if password else {}
    try:
        parts = _split(url)
        own = unquote(parts.password or "") or parse_qs(parts.query).get("password", [""])[0]
        if own and password:
            raise ConfigError("redis_password: redis_url holds a password too; give one of them")
        secrets = [secret for secret in (url, password or own) if secret]
        match mode:
            case "cluster":
                return RedisClient(RedisCluster.from_url(url, **limits, **credentials), secrets)
            case "sentinel":
                client = _master(parts, sentinel_service, limits, credentials)
            case _:
                pool = BlockingConnectionPool.from_url(url, timeout=timeout_s, **limits, **credentials)
                client = Redis.from_pool(pool)
        made: Any = client.connection_pool
        # Connects to nothing yet, but refuses an option that does not exist.
        made.make_connection()
    except (ValueError, TypeError, RedisError, RedisClusterException):
        message = f"redis_url: not understood; in {mode} mode it looks like {_EXAMPLES[mode]}"
        raise ConfigError(f"{message}, with special characters percent-encoded") from None
    return RedisClient(client, secrets)


def _split(url: str) -> SplitResult:
    """Refuses what redis-py would read as another server or database, for instance a `/` inside a password."""
    parts = urlsplit(url)
    remote = parts.scheme in {"redis", "rediss"}
    if parts.fragment or (remote and not (parts.netloc and re.fullmatch(r"/?[0-9]*", parts.path))):
        raise ValueError
    if not remote and parts.scheme != "unix":
        raise ValueError
    return parts


def _master(parts: SplitResult, service: str, limits: dict[str, Any], credentials: dict[str, Any]) -> Redis:
    user, at, hosts = parts.netloc.rpartition("@")
    sentinels = [urlsplit(f"//{host}") for host in hosts.split(",")]
    addresses = [(sentinel.hostname or "localhost", sentinel.port or 26379) for sentinel in sentinels]
    # The rest is read by redis-py itself, which knows one host only.
    options: dict[str, Any] = {**parse_url(urlunsplit(parts._replace(netloc=f"{user}{at}sentinels")))}
    options = limits | credentials | {"ssl": parts.scheme == "rediss"} | options
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    # Credentials and database are the master's.
    shared = {name: value for name, value in options.items() if name in limits or name.startswith("ssl")}
    make_sentinel: Any = Sentinel
    master: Redis = make_sentinel(addresses, sentinel_kwargs=shared).master_for(service, _Master, **options)
    return master


class _Master(Redis):
    """Closes the connections to its sentinels with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        await pool.sentinel_manager.aclose()
