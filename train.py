"""Train, test and explain: `python train.py scheduler=plateau aug=cutout`, `-m` with lists for a sweep."""

import sys

from cifar_pl.cli import command
from cifar_pl.cli.train import main

if __name__ == "__main__":
    sys.exit(command.run(main))
