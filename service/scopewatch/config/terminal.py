"""What the environment says of the terminal."""

import os


def wants_plain() -> bool:
    """Whether terminals are to be given plain text: by `NO_COLOR` (no-color.org), or since they are dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
