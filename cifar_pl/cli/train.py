"""`cifar-pl train` and `train.py`: one run or, with -m, a sweep. Lightning starts further processes with this file."""

import sys
from importlib import import_module

import hydra
from omegaconf import DictConfig

from cifar_pl.cli import command
from cifar_pl.config import place


@hydra.main(version_base="1.3", config_path=str(place.CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One run: config in, the monitored value out (None without validation)."""
    experiment = import_module("cifar_pl.training.experiment")  # 5 s of torch and Lightning that --help does without
    return command.job(experiment.run, cfg)


if __name__ == "__main__":
    sys.exit(command.run(main))
