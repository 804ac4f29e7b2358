"""Connects to Redis as redis-py offers it: one server, a cluster, or a master that sentinels name."""

from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from scopewatch.errors import ConfigError

MAX_CONNECTIONS = 32


def redis_client(url: str, *, mode: str, sentinel_service: str, timeout_s: float) -> "Redis | RedisCluster":
    """A client that gives up after `timeout_s` and never retries: the cache's breaker does better.

    Args:
        url: `redis://` or `rediss://`; in sentinel mode it may list several `host:port`, split by commas.
        mode: `standalone`, `cluster` or `sentinel`.
        sentinel_service: Name of the master, for sentinel mode.
        timeout_s: For connecting and for every answer.

    Raises:
        ConfigError: The URL cannot be understood. The message holds no password.
    """
    limits: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    no_retry = Retry(NoBackoff(), 0)
    try:
        if urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
            raise ConfigError("redis_url: must begin with redis://, rediss:// or unix://")
        match mode:
            case "cluster":
                return RedisCluster.from_url(url, retry=no_retry, max_connections=MAX_CONNECTIONS, **limits)
            case "sentinel":
                return _master(url, sentinel_service, limits)
            case _:
                pool = BlockingConnectionPool.from_url(
                    url, max_connections=MAX_CONNECTIONS, timeout=timeout_s, retry=no_retry, **limits
                )
                return Redis.from_pool(pool)
    except ValueError as error:
        raise ConfigError(f"redis_url: {error}") from None


def _master(url: str, service: str, limits: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    addresses = [
        (host or "localhost", int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))
    ]
    secure: dict[str, Any] = {
        "ssl": parts.scheme == "rediss",
        "password": unquote(password) or None,
        "username": unquote(username) or None,
    }
    make_sentinel: Any = Sentinel
    sentinel = make_sentinel(addresses, sentinel_kwargs={**limits, "ssl": secure["ssl"]}, **limits)
    master: Redis = sentinel.master_for(service, db=int(parts.path.strip("/") or 0), **secure, **limits)
    return master
