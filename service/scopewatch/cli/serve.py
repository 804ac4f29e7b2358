"""`serve`: the gRPC service."""

import argparse
import asyncio
import os
from contextlib import closing
from typing import NoReturn

from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import Config
from scopewatch.logs.sole_output import sole_output


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("serve", _run, "Serve gRPC and metrics. Every flag is also a variable SCOPEWATCH_FLAG_NAME.")
    add_settings(parser, Config.model_fields)


def _run(args: argparse.Namespace) -> NoReturn:
    config = settings(args, serves=True)
    with closing(asyncio.new_event_loop()) as loop, sole_output(config.log_level, config.log_format):
        from scopewatch.app.server import Server, process_start_s

        async def serve() -> int:
            return await Server(config, since_s=process_start_s()).run()

        code = loop.run_until_complete(serve())
    # What hangs in a thread, the engine for one, must not keep the process from ending.
    os._exit(code)
