"""Writes docs/explanation.schema.json, the JSON Schema of what `scopewatch explain --json` prints.

python tools/explanation_schema.py
"""

import json
from pathlib import Path

from scopewatch.explanation import Explanation

SCHEMA = Path(__file__).parents[1] / "docs" / "explanation.schema.json"


def schema() -> str:
    """The schema of what is printed, in which fields that have a default are there too."""
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Explanation.model_json_schema(mode="serialization"),
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    print(f"wrote {SCHEMA}")
