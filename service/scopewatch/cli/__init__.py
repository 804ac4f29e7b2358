"""The command line: parse, call, print."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

import scopewatch
from scopewatch.cli import (
    activations,
    audit,
    bench,
    calibrate,
    completion,
    contrast,
    demo,
    evaluate,
    explain,
    features,
    plan,
    reader,
    sae,
    scan,
    score,
    serve,
    show_settings,
    token,
    watch,
    watchlist,
)
from scopewatch.cli.parser import Parser
from scopewatch.cli.terminal import Harmless, is_read_by_people, remark
from scopewatch.errors import NothingUsable, ScopewatchError, SetupError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one subcommand and exits: 0 done, 1 failed while running, 2 the input is wrong, 3 done but for some rows.

    All exit codes are in docs/cli.md.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Texts hold letters that a terminal's encoding may lack.
        sys.stdout.reconfigure(errors="backslashreplace")
        if is_read_by_people(sys.stdout):
            sys.stdout = Harmless(sys.stdout)
    try:
        code = args.run(args)
        sys.stdout.flush()
    except SetupError as error:
        remark(f"scopewatch: {error}")
        code = 1 if isinstance(error, NothingUsable) else 2
    except ScopewatchError as error:
        remark(f"scopewatch: {error.reason}: {error}")
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The program that read the output has left, as `| head` does; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _parser() -> Parser:
    parser = Parser(prog="scopewatch", description=scopewatch.__doc__)
    parser.add_argument("--version", action="version", version=f"scopewatch {scopewatch.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub

    judging = (serve, demo, score, explain, watch, evaluate, activations, calibrate, contrast, scan)
    for module in (*judging, watchlist, features, reader, sae, bench, plan, token, audit, show_settings, completion):
        module.add(command)
    return parser
