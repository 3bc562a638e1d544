"""Where the configs are: in the package when it is installed, beside it in a clone."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def conf() -> Path:
    """The folder of `config.yaml` and its groups."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parent / "conf"
