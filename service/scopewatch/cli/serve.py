"""`serve`: the gRPC service."""

import argparse
import asyncio
import logging
import os
from typing import NoReturn

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import Config


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("serve", _run, "Serve gRPC and metrics. Every flag is also a variable SCOPEWATCH_FLAG_NAME.")
    add_settings(parser, Config.model_fields)


def _run(args: argparse.Namespace) -> NoReturn:
    from scopewatch.app.server import Server, process_start_s

    config = settings(args)
    logs.configure(config.log_level, config.log_format)

    async def run() -> None:
        code = await Server(config, since_s=process_start_s()).run()
        # What hangs in a thread, the engine for one, must not keep the process from ending.
        logging.shutdown()
        os._exit(code)

    asyncio.run(run())
    raise AssertionError("the process has ended")
