"""`serve`: the gRPC service."""

import argparse
import asyncio

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import Config


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("serve", _run, "Serve gRPC and metrics. Every flag is also a variable SCOPEWATCH_FLAG_NAME.")
    add_settings(parser, Config.model_fields)


def _run(args: argparse.Namespace) -> int:
    from scopewatch.app.server import Server, process_start_s

    config = settings(args)
    logs.configure(config.log_level, config.log_format)

    async def run() -> int:
        return await Server(config, since_s=process_start_s()).run()

    return asyncio.run(run())
