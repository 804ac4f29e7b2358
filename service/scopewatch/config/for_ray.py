"""What Ray reads from the environment before it starts."""

import os

_SET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
"""Ray reports its use to its makers unless told otherwise; nothing leaves the machine here that nobody asked for."""


def settle_ray() -> None:
    """Sets what the user has not set; has to come before Ray is imported."""
    for name, value in _SET.items():
        os.environ.setdefault(name, value)
