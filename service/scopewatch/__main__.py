"""`python -m scopewatch` and the console script."""

import os
import signal
import sys


def main() -> None:
    """Runs a command. A server that is told to end while it is still being imported ends, with 0."""
    if sys.argv[1:2] == ["serve"]:
        # As the first process of a container it would not even notice.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from scopewatch.cli import main as run

    run()


if __name__ == "__main__":
    main()
