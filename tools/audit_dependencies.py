"""Look up known vulnerabilities of what the images install: `make audit-dependencies` runs it where pip-audit is installed.

python tools/audit_dependencies.py [pip-audit's options, such as --vulnerability-service osv]

Exit code 0: every release was looked up, and nothing is known. 1: something is known, and is named. 2: not every release
could be looked up, which pip-audit by itself calls "No known vulnerabilities found".
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL_LOOKED_UP, VULNERABLE, NOT_LOOKED_UP = 0, 1, 2


def main() -> int:
    files = ("requirements-image.txt", "requirements-tools.txt")
    pins = [
        pin for name in files for pin in re.findall(r"^[\w.-]+==\S+", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    ]
    pins += re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    # Without their hashes: pip-audit wants one of torch too as soon as one release has some.
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--disable-pip"]
        command += ["--no-deps", "--requirement", file.name, *sys.argv[1:]]
        audit = subprocess.run(command, capture_output=True, text=True, check=False)
    if not audit.stdout:
        last = (audit.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"NOT AUDITED: pip-audit has no answer from its database: {last}", file=sys.stderr)
        return NOT_LOOKED_UP
    releases = json.loads(audit.stdout)["dependencies"]
    skipped = [release["skip_reason"] for release in releases if "skip_reason" in release]
    known = [(release, vulnerability) for release in releases for vulnerability in release.get("vulns", ())]
    for release, vulnerability in known:
        names, mended = [vulnerability["id"], *vulnerability["aliases"]], vulnerability["fix_versions"]
        print(
            f"{release['name']}=={release['version']}: {', '.join(names)}; mended in {', '.join(mended) or 'no release'}"
        )
    if skipped:
        print(f"NOT AUDITED: {len(skipped)} of {len(releases)} releases; the first: {skipped[0]}", file=sys.stderr)
    else:
        print(f"{len(releases)} releases looked up, {len(known)} known vulnerabilities")
    return VULNERABLE if known else NOT_LOOKED_UP if skipped else ALL_LOOKED_UP


if __name__ == "__main__":
    sys.exit(main())
