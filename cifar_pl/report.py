"""`cifar-pl report DIR...`: many runs in one table and on one page; two runs image by image."""

import argparse
import logging
import sys
from pathlib import Path

from cifar_pl.cli import command
from cifar_pl.errors import require
from cifar_pl.inference import pair
from cifar_pl.reporting import comparison_page, pair_page
from cifar_pl.reporting.comparison_page import PAGE, TABLE
from cifar_pl.reporting.pair_page import PAGE as PAIR
from cifar_pl.runs import rundir
from cifar_pl.runs.compare import Comparison
from cifar_pl.runs.record import list_runs
from cifar_pl.sweeps import searched

log = logging.getLogger(__name__)

PAIRED = "compared"  # in the first of two runs


def main() -> None:
    """Compare the runs that the command line names."""
    parser = argparse.ArgumentParser(prog="cifar-pl report", description="Compare runs.")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a sweep, a run, or what holds them")
    where = f"where {TABLE} and {PAGE} go, or {PAIR} of two runs; default: DIR, or the first of two runs"
    parser.add_argument("--out", type=Path, help=where)
    ask = parser.parse_args()
    first, *others = ask.directories
    typed = ["python", "-m", "cifar_pl.report", *sys.argv[1:]]
    if len(others) == 1 and rundir.is_run(first) and rundir.is_run(others[0]):
        other = others[0].resolve()
        out = ask.out or first.joinpath(PAIRED, other.parent.name, other.name)  # a run has a page with each other
        text, made = pair_page.write(out, pair.find(ask.directories), typed), out / PAIR
    else:
        require(ask.out or not others, "Several directories: say with --out DIR where the page goes.")
        out = ask.out or first
        comparison = Comparison(list_runs(ask.directories))
        comparison_page.write(out, comparison, typed, searched.read(first) if not others else None)
        text, made = comparison_page.text(comparison), out / PAGE
    sys.stdout.write(text + "\n")
    log.info("Look at: %s", made)


if __name__ == "__main__":
    sys.exit(command.script(main))
