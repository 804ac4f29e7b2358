"""`make deploy-check`: renders everything that deploy/ can be and names what is wrong with it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy_check import crds
from deploy_check.mistakes import Mistake
from deploy_check.rendering import NoKustomize, NotRendered, installations, kustomized
from deploy_check.rules import mistakes


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 all is well, 1 there are mistakes, 2 it cannot be checked."""
    parser = argparse.ArgumentParser(prog="deploy_check", description=__doc__)
    parser.add_argument("--without-crds", action="store_true", help="leave out the schemas that npm fetches")
    parser.add_argument(
        "overlay", type=Path, nargs="*", help="a kustomization of your own, in place of those in deploy/"
    )
    args = parser.parse_args(argv)
    try:
        rendered = [kustomized(folder) for folder in args.overlay] or list(installations())
        objects = crds.distinct(found for one in rendered for found in one.objects)
        of_schemas = [] if args.without_crds else crds.mistakes(objects)
    except (NoKustomize, NotRendered, crds.NoSchemas) as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, NotRendered) else 2
    found: dict[Mistake, list[str]] = {mistake: [] for mistake in of_schemas}
    for one in rendered:
        for mistake in mistakes(one):
            found.setdefault(mistake, []).append(one.name)
    for mistake, where in found.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        print(f"{where[0] + more + ': ' if where else ''}{mistake}")
    print(f"{len(rendered)} installations, {len(objects)} different objects, {len(found)} mistakes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
