"""What every caller sees of the tools: names, titles, descriptions, schemas. `python -m tests.support.tool_snapshot` writes it.

A change here changes what agents do: it must be seen in review, and never happen by accident.
"""

import json
from pathlib import Path
from typing import Any

from blip2tools.toolset import TOOLS

SNAPSHOT = Path(__file__).parent / "snapshots" / "tools.json"


def catalogue() -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "title": spec.title,
            "description": spec.description,
            "inputSchema": spec.input_schema(),
            "outputSchema": spec.output_schema(),
        }
        for spec in TOOLS
    ]


def text() -> str:
    return json.dumps(catalogue(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from tests.support import catalogue_snapshot

    SNAPSHOT.write_text(text(), encoding="utf-8")
    catalogue_snapshot.CATALOGUE.write_text(catalogue_snapshot.text(), encoding="utf-8")
    catalogue_snapshot.plugin().main(catalogue_snapshot.ROOT / "plugin")
