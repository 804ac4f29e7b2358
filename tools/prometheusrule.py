"""Makes deploy/monitoring/prometheusrule.yaml of the rule files beside it; with `--check` it says whether it is up to date."""

import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1] / "deploy" / "monitoring"
FILE = FOLDER / "prometheusrule.yaml"
HEAD = """\
# Made by tools/prometheusrule.py of the files in rules/: change those, and run it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: scopewatch
  labels:
    app.kubernetes.io/name: scopewatch
    # What kube-prometheus-stack and kube-prometheus look for; patch them to yours.
    release: kube-prometheus-stack
    prometheus: k8s
    role: alert-rules
spec:
  groups:
"""


def manifest() -> str:
    """The object, with the groups of all rule files as they are written, comments too."""
    parts = []
    for file in sorted((FOLDER / "rules").glob("*.yaml")):
        before, _, groups = file.read_text(encoding="utf-8").partition("groups:\n")
        parts += [f"    {line}\n" if line else "\n" for line in f"{before}".rstrip().splitlines()]
        # Rule files indent their groups by two.
        parts += [f"  {line}\n" if line else "\n" for line in groups.rstrip().splitlines()]
    return HEAD + "".join(parts)


def main() -> int:
    """The exit code: 0 the file is as it should be, 1 it was not, with `--check`."""
    made = manifest()
    written = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    files = sorted((FOLDER / "rules").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    assert groups == yaml.safe_load(made)["spec"]["groups"]
    if "--check" in sys.argv[1:]:
        print("up to date" if made == written else f"{FILE.name} is not what rules/ say: run tools/prometheusrule.py")
        return int(made != written)
    FILE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
