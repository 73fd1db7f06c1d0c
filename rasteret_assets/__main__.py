"""``python -m rasteret_assets``."""

from rasteret_assets.cli import main

if __name__ == "__main__":
    main()
