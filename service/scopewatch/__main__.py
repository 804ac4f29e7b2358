"""`python -m scopewatch` and the console script."""

import os
import signal
import sys


def main() -> None:
    """Runs a command. A server that is being imported already ends on SIGTERM, with 0, and does not on SIGHUP."""
    if sys.argv[1:2] == ["serve"]:
        # It asks for watchlist files to be read again, and they are about to be read.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # As the first process of a container it would not even notice.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    from scopewatch.cli import main as run

    run()


if __name__ == "__main__":
    main()
