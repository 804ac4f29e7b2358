"""Settings: command-line flags over `SCOPEWATCH_*` environment variables over a config file over defaults.

Only this room reads the environment.
"""

from scopewatch.addresses import host_and_port, is_loopback, is_loopback_host, socket_file
from scopewatch.config.config_file import CONFIG
from scopewatch.config.environment import ENV_PREFIX, server_environment
from scopewatch.config.folders import BUNDLED_WATCHLIST, WATCHLISTS_BY_NAME, cache_folder, watchlist_file
from scopewatch.config.given import GONE, unknown
from scopewatch.config.loading import Effective, effective, load_config
from scopewatch.config.settings import ENGINE_SETTINGS, FILE_LISTS, FILES, SECRET_FILES, Config
from scopewatch.config.terminal import wants_plain

__all__ = [
    "BUNDLED_WATCHLIST",
    "CONFIG",
    "ENGINE_SETTINGS",
    "ENV_PREFIX",
    "FILES",
    "FILE_LISTS",
    "GONE",
    "SECRET_FILES",
    "WATCHLISTS_BY_NAME",
    "Config",
    "Effective",
    "cache_folder",
    "effective",
    "host_and_port",
    "is_loopback",
    "is_loopback_host",
    "load_config",
    "server_environment",
    "socket_file",
    "unknown",
    "wants_plain",
    "watchlist_file",
]
