"""Where the configs are: in the package when it is installed, beside it in a clone."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
