"""Settings of the service: command-line flags over `SCOPEWATCH_*` environment variables over defaults.

Only this room reads the environment.
"""

from scopewatch.addresses import host_and_port, is_loopback, is_loopback_host, socket_file
from scopewatch.config.environment import ENV_PREFIX, load_config, server_environment
from scopewatch.config.folders import BUNDLED_WATCHLIST, WATCHLISTS_BY_NAME, cache_folder, watchlist_file
from scopewatch.config.settings import ENGINE_SETTINGS, FILE_LISTS, SECRET_FILES, Config

__all__ = [
    "BUNDLED_WATCHLIST",
    "ENGINE_SETTINGS",
    "ENV_PREFIX",
    "FILE_LISTS",
    "SECRET_FILES",
    "WATCHLISTS_BY_NAME",
    "Config",
    "cache_folder",
    "host_and_port",
    "is_loopback",
    "is_loopback_host",
    "load_config",
    "server_environment",
    "socket_file",
    "watchlist_file",
]
