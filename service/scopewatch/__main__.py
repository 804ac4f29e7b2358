"""`python -m scopewatch` and the console script."""

import os
import signal
import sys


def main() -> None:
    """Runs a command. A server that is being imported already ends on SIGTERM, with 0, and does not on SIGHUP.

    The first process of a container, which gets no signal that it does not ask for, ends on SIGTERM too.
    """
    if sys.argv[1:2] == ["serve"]:
        # It asks for watchlist files to be read again, and they are about to be read.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    elif os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from scopewatch.cli import main as run

    run()


if __name__ == "__main__":
    main()
