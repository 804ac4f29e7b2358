"""Takes the pictures of an explanation's page: docs/images/explanation-*.png.

    python tools/explanation_screenshots.py [EXPLANATION.json]

The explanation is one line of what `scopewatch explain --json` prints; without one, that of `tests/explanations.py` in which
everything is told. Chromium is needed, and pdftoppm (Debian package poppler-utils).
"""

import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import explanations  # noqa: E402
from browser import Page, browser  # noqa: E402
from scopewatch.explanation import Explanation  # noqa: E402
from scopewatch.report.explanation_page import explanation_html  # noqa: E402

IMAGES = ROOT / "docs" / "images"
BENIGN = {"clinic-0412": "My knee hurts after running. Should I worry?\n\nProbably not: rest it for some days first."}


def screen(page: Page, width: int, height: int, *, dark: bool = False) -> Image.Image:
    """The page, or its uppermost part, on a screen."""
    page.look(width, height, dark=dark)
    return Image.open(BytesIO(page.screenshot(height=height)))


def paper(page: Page, folder: Path) -> Image.Image:
    """The first four sheets that the page is printed on."""
    (folder / "page.pdf").write_bytes(page.pdf())
    command = ["pdftoppm", "-r", "60", "-png", "-l", "4", folder / "page.pdf", folder / "sheet"]
    subprocess.run(command, check=True)
    sheets = [Image.open(file) for file in sorted(folder.glob("sheet-*.png"))]
    width, height = sheets[0].size
    picture = Image.new("RGB", (len(sheets) * (width + 8) - 8, height), "grey")
    for number, sheet in enumerate(sheets):
        picture.paste(sheet, (number * (width + 8), 0))
    return picture


def save(name: str, picture: Image.Image) -> None:
    """Saves a picture in few colours."""
    file = IMAGES / f"explanation-{name}.png"
    picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.name}: {picture.width} x {picture.height}, {file.stat().st_size:,} bytes")


def main() -> None:
    told = [Path(name).read_text(encoding="utf-8") for name in sys.argv[1:]]
    explanation = Explanation.model_validate_json(told[0]) if told else explanations.flagged()
    IMAGES.mkdir(exist_ok=True)
    # The browser may write into its profile for a moment after it was closed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(Path(folder) / "profile") as page:
        file = Path(folder) / "page.html"
        file.write_text(explanation_html(explanation, references=BENIGN), encoding="utf-8")
        page.look()
        page.open(file)
        save("light", screen(page, 1100, 2000))
        save("dark", screen(page, 1100, 2000, dark=True))
        save("phone", screen(page, 360, 2000))
        save("print", paper(page, Path(folder)))


if __name__ == "__main__":
    main()
