"""Train, test and explain: `python train.py scheduler=plateau aug=cutout`, `-m` with lists for a sweep."""

import sys

import hydra
from omegaconf import DictConfig

from cifar_pl.cli import command


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One run: config in, the monitored value out (None without validation)."""
    from cifar_pl.training.experiment import run  # 5 s of torch and Lightning that --help does without

    return command.job(run, cfg)


if __name__ == "__main__":
    sys.exit(command.run(main))
