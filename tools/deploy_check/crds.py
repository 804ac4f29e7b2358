"""Custom resources against the schemas of their definitions, which npm brings.

They are not kept here: the packages hold 36 MB. `npm` installs them once into build/deploy-check.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from deploy_check.manifests import Fields, place
from deploy_check.mistakes import Mistake

_HERE = Path(__file__).with_name("crds")
_INSTALLED = Path(__file__).parents[2] / "build" / "deploy-check"
_GROUPS = ("cert-manager.io", "gateway.networking.k8s.io", "keda.sh", "monitoring.coreos.com")


class NoSchemas(Exception):
    """The schemas cannot be had on this machine; says why."""


def distinct(objects: Iterable[Fields]) -> list[Fields]:
    """The objects without those that are the same as others."""
    return list({json.dumps(found, sort_keys=True): found for found in objects}.values())


def mistakes(objects: Iterable[Fields]) -> list[Mistake]:
    """What the definitions of custom resources say against objects; others are left out.

    Raises:
        NoSchemas: node and npm are missing, or the packages cannot be installed.
    """
    custom = [found for found in objects if found["apiVersion"].partition("/")[0] in _GROUPS]
    if not custom:
        return []
    program = [_program("node"), str(_installed() / "check.mjs")]
    told = subprocess.run(program, input=json.dumps(custom), capture_output=True, text=True, check=False)
    if told.returncode:
        raise NoSchemas(f"the schemas could not be read: {told.stderr.strip() or told.stdout.strip()}")
    mend = "see the reference of its definition"
    return [
        Mistake(place(custom[number]), what, mend, "fits_the_schema_of_its_definition")
        for number, what in json.loads(told.stdout)
    ]


def _installed() -> Path:
    """The folder that the packages are installed in, and the program beside them."""
    npm = _program("npm")
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    lock = _INSTALLED / "package-lock.json"
    done = _INSTALLED / "node_modules" / ".package-lock.json"
    same = done.is_file() and lock.is_file() and lock.read_bytes() == (_HERE / lock.name).read_bytes()
    for name in ("package.json", "package-lock.json", "check.mjs"):
        shutil.copyfile(_HERE / name, _INSTALLED / name)
    if not same:
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        told = subprocess.run(command, cwd=_INSTALLED, capture_output=True, text=True, check=False)
        if told.returncode:
            raise NoSchemas(f"npm cannot install the schemas: {told.stderr.strip()}")
    return _INSTALLED


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NoSchemas(f"{name} is not installed: custom resources cannot be checked (Debian packages nodejs and npm)")
    return found
