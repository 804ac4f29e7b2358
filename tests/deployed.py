"""The manifests in deploy/, and tools/deploy_check, for tests."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
# After everything else: no module of tools/ takes another's place.
sys.path.append(str(ROOT / "tools"))

from deploy_check.manifests import Manifests  # noqa: E402
from deploy_check.rendering import base_from_files, kustomized, overlaid, renamed  # noqa: E402

APART = {
    "for a gateway": ("models", "hpa", "tls", "roles", "gateway", "gateway-tls"),
    "for weights in an image": ("models-image",),
}
"""Components that no overlay has, put together so that each of them is in one."""
NAMES = ("files", "gpu", "production", "production renamed", *APART)


def need_kustomize() -> None:
    """Skips where there is no kubectl that knows Kustomize."""
    if not _kustomize():
        pytest.skip("kubectl with kustomize is not installed")


@cache
def _kustomize() -> bool:
    kubectl = shutil.which("kubectl")
    return (
        bool(kubectl)
        and not subprocess.run([kubectl, "kustomize", "--help"], capture_output=True, check=False).returncode
    )


@cache
def manifests(name: str) -> Manifests:
    """One of `NAMES`: the base from its files, or what Kustomize renders."""
    if name == "files":
        return base_from_files()
    need_kustomize()
    if name in APART:
        return overlaid(APART[name])
    folder = DEPLOY / "overlays" / name.partition(" ")[0]
    return renamed(folder) if name.endswith("renamed") else kustomized(folder, name)
