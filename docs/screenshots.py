"""Take the screenshots of the documentation: run the browser test, and keep the pictures that the pages show.

``python docs/screenshots.py`` needs what the tests need, and a Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
TAKEN = REPOSITORY / "e2e-artifacts"
KEPT = REPOSITORY / "docs" / "images"


def main() -> None:
    """Run the test, then copy its pictures."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/e2e/test_browser.py"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    KEPT.mkdir(exist_ok=True)
    for picture in sorted(TAKEN.glob("*.png")):
        shutil.copy(picture, KEPT / picture.name)


if __name__ == "__main__":
    main()
