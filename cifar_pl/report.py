"""`python -m cifar_pl.report DIR...`: many runs in one table and on one page."""

import argparse
import logging
import sys
from pathlib import Path

from cifar_pl.cli import command
from cifar_pl.errors import require
from cifar_pl.reporting import comparison_page
from cifar_pl.reporting.comparison_page import PAGE, TABLE
from cifar_pl.runs.compare import Comparison
from cifar_pl.runs.record import list_runs

log = logging.getLogger(__name__)


def main() -> None:
    """Compare the runs that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m cifar_pl.report", description="Compare runs.")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a sweep, a run, or what holds them")
    parser.add_argument("--out", type=Path, help=f"where {TABLE} and {PAGE} go; with one DIR, into it")
    ask = parser.parse_args()
    require(ask.out or len(ask.directories) == 1, "Several directories: say with --out DIR where the page goes.")
    out = ask.out or ask.directories[0]
    comparison = Comparison(list_runs(ask.directories))
    comparison_page.write(out, comparison, ["-m", "cifar_pl.report", *sys.argv[1:]])
    sys.stdout.write(comparison_page.text(comparison) + "\n")
    log.info("Look at: %s", out / PAGE)


if __name__ == "__main__":
    sys.exit(command.script(main))
