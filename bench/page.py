"""The part of a page of docs that a benchmark writes: all between two marks, the first of which names the script."""

from pathlib import Path

_TO = "<!-- to here -->"


def write_between(page: Path, script: str, table: str) -> None:
    """Replaces what stands between `<!-- SCRIPT writes from here -->` and `<!-- to here -->`."""
    start = f"<!-- {script} writes from here -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(_TO)
    if not (found and closed):
        raise SystemExit(f"{page}: lacks the lines {start} and {_TO}, between which the table goes; write them there")
    page.write_text(f"{before}{start}\n\n{table}\n\n{_TO}{after}", encoding="utf-8")
