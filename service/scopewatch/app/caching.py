"""The cache that settings name: Redis, or this process."""

import logging

from scopewatch.config import Config
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import Cache, LocalCache, RedisCache

log = logging.getLogger(__name__)


def cache_of(config: Config, metrics: Metrics) -> Cache:
    """Makes the cache; connects to nothing yet.

    Raises:
        ConfigError: The URL of Redis cannot be understood.
    """
    url = config.redis_url.get_secret_value()
    if not url:
        # The other half is for judgements.
        return LocalCache(config.cache_bytes - config.cache_bytes // 2, metrics)
    if not config.cache_secret.get_secret_value():
        log.warning(
            "cache_secret is empty: whoever reads this Redis can test which texts were scored, "
            "and whoever writes to it can forge values that clear a verdict"
        )
    # Most servers that are tried out have no Redis, and redis-py takes a tenth of a second.
    from scopewatch.pipeline.redis_client import redis_client

    client = redis_client(
        url,
        mode=config.redis_mode,
        sentinel_service=config.redis_sentinel_service,
        timeout_s=config.redis_timeout_s,
        password=config.redis_password.get_secret_value(),
    )
    return RedisCache(client, timeout_s=config.redis_timeout_s, ttl_s=config.cache_ttl_s, metrics=metrics)
