"""Take the screenshots of the documentation: run the browser test, and keep the pictures that the pages show.

``python docs/screenshots.py`` needs what the tests need, and a Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).parent.parent
TAKEN = REPOSITORY / "e2e-artifacts"
KEPT = REPOSITORY / "docs" / "images"


def main() -> None:
    """Run the test, then copy its pictures."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/e2e/test_browser.py"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    for picture in sorted(TAKEN.glob("*.png")):
        # Pages have few colours: a palette makes a third of a picture.
        image = Image.open(picture).convert("RGB").quantize(255, dither=Image.Dither.NONE)
        image.save(KEPT / picture.name, optimize=True)


if __name__ == "__main__":
    main()
