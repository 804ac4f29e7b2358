"""How pip finds packages on this machine, handed to a build without leaving a trace in the image."""

import subprocess
import sys
from pathlib import Path

SETTINGS = ("index-url", "extra-index-url", "find-links", "cert", "timeout", "trusted-host")


def pip_settings() -> dict[str, str]:
    """pip's settings that say where packages come from, as files and variables of this machine give them.

    Indexes that are folders are left out: their pages lead to files elsewhere, which a build would not find.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    lines = (line.partition("=") for line in listed.stdout.splitlines())
    named = {key.rpartition(".")[2]: value.strip("'\"").split() for key, _, value in lines}
    words = {name: [word for word in named.get(name, ()) if not word.startswith("file:")] for name in SETTINGS}
    return {name: " ".join(found) for name, found in words.items() if found}


def build_options(folder: Path) -> list[str]:
    """Podman's options for a build: the settings as a secret, and the folders that they name.

    Args:
        folder: Where the secret's file is written.
    """
    settings = pip_settings()
    named = [Path(word) for value in settings.values() for word in value.split() if word.startswith("/")]
    folders = {path if path.is_dir() else path.parent for path in named if path.exists()}
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()), "utf-8")
    volumes = [part for path in sorted(folders) for part in ("--volume", f"{path}:{path}:ro")]
    return ["--secret", f"id=pip.conf,src={file}", *volumes]
