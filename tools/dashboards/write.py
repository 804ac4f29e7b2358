"""Writes the Grafana dashboards of deploy/monitoring/dashboards.

make dashboards            or        python tools/dashboards/write.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import drift
import indicator
import overview
import service
from grafana_foundation_sdk.cog.encoder import JSONEncoder

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "monitoring" / "dashboards"
_MADE = {"overview": overview, "indicator": indicator, "service": service, "drift": drift}


def documents() -> dict[str, str]:
    """Every dashboard as JSON, by its name."""
    return {
        name: json.dumps(module.dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, module in _MADE.items()
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, text in documents().items():
        (DASHBOARDS / f"{name}.json").write_text(text, encoding="utf-8")
        print(DASHBOARDS / f"{name}.json")
