"""`cifar-pl verify RUN`: the first steps of a run again. Do they have the losses that it recorded?"""

import argparse
import logging
import sys
import tempfile
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cifar_pl.cli import command
from cifar_pl.config import parts, schema
from cifar_pl.config.build import build
from cifar_pl.errors import UserError, require
from cifar_pl.inference import saved
from cifar_pl.runs import files, rundir
from cifar_pl.training.callbacks import FirstSteps

log = logging.getLogger(__name__)

# How far a loss may be off on GPUs: the first has the same weights and images; then rounding grows from step to step.
FIRST, LATER = 0.01, 0.5


def main() -> None:
    """Train the first steps of a run again, keep nothing, and compare: on a CPU the bits, else roughly."""
    parser = argparse.ArgumentParser(prog="cifar-pl verify", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run directory, or latest")
    directory = rundir.find_run(parser.parse_args().run)
    file = directory / rundir.FIRST_STEPS
    require(file.is_file(), f"{file} is missing: the run ended in its first steps, or is older than this command.")
    try:
        record: dict[str, Any] = files.read_json(file)
        cfg = schema.of_run(directory)
        cfg.resume = None  # of a resumed run, too, the first steps had new weights
        for part in (cfg.model, cfg.classifier, cfg.trainer, cfg.datamodule.augment):
            schema.allow(part, *schema.targets())
        before, facts, lr = [float(loss) for loss in record["losses"]], dict(record["on"]), float(record["lr"])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{directory} is not a run of this version: {type(error).__name__}: {error}") from error
    now, on = again(cfg, lr)
    sys.stdout.write("step  recorded  now       difference\n")
    for number, (then, loss) in enumerate(zip(before, now, strict=False), 1):
        sys.stdout.write(f"{number:4}  {then:.6f}  {loss:.6f}  {f'{loss - then:+.1e}' if loss != then else 'none'}\n")
    exact = now[: len(before)] == before
    # Older records do not have the accelerator.
    on_cpu = facts.get("accelerator", cfg.trainer.accelerator if "gpu" in facts else "cpu") == "cpu"
    limits = [FIRST, *[LATER] * len(before)]
    near = all(abs(loss - then) <= limit * then for then, loss, limit in zip(before, now, limits, strict=False))
    others = [f"{key} was {facts.get(key)}, is {value}" for key, value in on.items() if facts.get(key) != value]
    require(
        exact or (near and not on_cpu),
        f"{directory}: these are not the losses that the run recorded. "
        f"{'; '.join(others) or 'Machine, versions and commit are the same'}. "
        "Bits are the same with the same code, versions, processor and number of threads; on GPUs none are promised.",
    )
    how = "to the last bit" if exact else "but for rounding, which may grow: on GPUs no bits are promised"
    log.info("%s: the losses of its first %d steps are the same %s.", directory, len(before), how)


def again(cfg: DictConfig, lr: float) -> tuple[list[float], dict[str, Any]]:
    """The losses of the first steps of a run with this config and rate, and what they were computed on."""
    config: Any = OmegaConf.to_container(cfg)
    data = saved.images(config, build(cfg.datamodule.augment, "aug"))
    machine, steps = parts.machine(cfg), FirstSteps()
    network = parts.network(cfg, data, machine.accelerator)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = parts.trainer(cfg, machine, data, [steps], OmegaConf.create(), default_root_dir=scratch)
        require(trainer.world_size == 1, "The run had several processes; one alone adds up in another order.")
        trainer.fit(parts.classifier(cfg, network, data, lr), datamodule=data)
    return steps.losses, steps.on(trainer)


if __name__ == "__main__":
    sys.exit(command.script(main))
