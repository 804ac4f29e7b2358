"""Build the images for real, on a base that is made here, and try them as a cluster would: `make image-check`.

python tools/image_check [--folder FOLDER] [--base IMAGE] [--keep]

Needs root, Linux, and Debian's podman, runc, netavark, aardvark-dns, iptables, uidmap and debootstrap; no daemon and no registry. Some
ten minutes and 8 GB for a first build. Where a registry is in reach, `--base python:3.11-slim-trixie` takes the real base.
"""

import argparse
import re
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from base import stand_in
from engine import Engine
from index import build_options
from offline import check_demo, check_scans_lines, check_tools, write_data
from serving import check_described, check_refuses_plaintext, check_serves, expect

ROOT = Path(__file__).parents[2]
CPU, TOOLS, CUDA = (f"localhost/scopewatch:{target}" for target in ("cpu", "tools", "cuda"))
PROGRAMS = ("podman", "runc", "debootstrap", "iptables")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--folder", type=Path, help="where images lie while they are built and tried; else a temporary one"
    )
    parser.add_argument("--base", help="the base image; else one is made with debootstrap")
    parser.add_argument(
        "--keep", action="store_true", help="leave the images in FOLDER, so that the next build is quick"
    )
    args = parser.parse_args()
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        sys.exit(
            f"not installed: {', '.join(missing)} (Debian packages of these names, with netavark and aardvark-dns)"
        )
    folder = args.folder.resolve() if args.folder else Path(tempfile.mkdtemp(prefix="image-check-"))
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(folder)
    try:
        check(engine, folder, args.base or stand_in(engine, folder / "base"))
    finally:
        if not args.keep:
            engine.tried("system", "reset", "--force")
            shutil.rmtree(folder, ignore_errors=True)


def check(engine: Engine, folder: Path, base: str) -> None:
    options = [*build_options(folder), "--build-arg", f"PYTHON_IMAGE={base}"]
    for target, tag in (("cpu", CPU), ("tools", TOOLS)):
        print(f"{target}: builds", flush=True)
        engine.build(ROOT, tag, "--target", target, *options)
    write_data(folder / "data")
    print("cpu:")
    check_described(engine, CPU)
    check_refuses_plaintext(engine, CPU)
    check_serves(engine, CPU)
    check_demo(engine, CPU)
    check_scans_lines(engine, CPU, folder / "data")
    print("tools:")
    check_described(engine, TOOLS)
    check_tools(engine, TOOLS, folder / "data")
    print("cuda:")
    check_cuda_wants_cuda(engine, options)
    print(sizes(engine, base))


def check_cuda_wants_cuda(engine: Engine, options: list[str]) -> None:
    """With a torch for CPUs the target `cuda` is built up to its last step, with the C compiler, and refused there."""
    ended = engine.tried(
        "build",
        "--isolation",
        "chroot",
        "--layers",
        *options,
        "--target",
        "cuda",
        "--tag",
        CUDA,
        str(ROOT),
        timeout_s=3600,
    )
    expect(
        "a torch for CPUs is refused, after everything else was built",
        ended.returncode and "this torch is no CUDA build" in ended.stdout,
        ended.stdout[-3000:],
    )


def sizes(engine: Engine, base: str) -> str:
    """A table of the layers, for docs/image.md."""
    parts = re.findall(r"^COPY --from=\S+ /layers/(\w+) /$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    names = ["base", *dict.fromkeys(parts)]
    layers = engine.layers(TOOLS)
    lines = [f"{name:10}{layer.megabytes:6.0f} MB" for name, layer in zip(names, layers, strict=True)]
    return "\n".join([f"Layers on {datetime.now(UTC):%Y-%m-%d}, base {base}:", *lines])


if __name__ == "__main__":
    main()
