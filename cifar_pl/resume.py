"""`resume=RUN`: the run's own overrides again, in the run's own directory, contradictions refused; sweeps likewise."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cifar_pl import rundir
from cifar_pl.errors import require

OVERRIDES = ".hydra/overrides.yaml"
SWEEP = "multirun.yaml"
NO_SUBDIR = "hydra.output_subdir=null"  # a refused resume leaves the run's .hydra as it was
# What may differ: it does not change a single weight.
FREE = {"resume", "trainer.max_epochs", "data.num_workers"}
# Only joins or shows what is compared itself.
WIRING = (
    "datamodule.",
    "classifier.optimizer.",
    "classifier.scheduler.",
    "classifier.seed",
    "callbacks.dashboard.hparams.",
)


def arguments(argv: list[str]) -> list[str]:
    """The command line with `resume=` or `sweep.resume=` expanded: the old overrides, the new ones, the directory.

    Raises:
        UserError: `resume=` with `-m` or `lr_finder=`, or where there is no run or no sweep to resume.
    """
    if sweep := _asked(argv, "sweep.resume="):
        return _sweep(argv, Path(sweep))
    asked = _asked(argv, "resume=")
    if not asked or NO_SUBDIR in argv:
        return argv  # nothing to expand, or done already: Lightning starts further processes with our own line
    require(
        not {"-m", "--multirun"} & set(argv),
        "resume= goes on with one run: leave out -m. For a sweep: python train.py -m sweep.resume=DIR.",
    )
    require(
        not any(a.startswith("lr_finder=") for a in argv),
        "lr_finder= and resume= exclude each other: the rate of the run is already chosen "
        "and is read from its checkpoint. Leave out lr_finder=.",
    )
    directory = rundir.find(asked)
    flags = [a for a in argv if a.startswith("-")]
    new = [a for a in argv if not a.startswith(("-", "resume=", "hydra."))]
    return [
        *flags,
        *_merged(overrides(directory), new),
        f"resume={quoted(directory)}",
        f"hydra.run.dir={quoted(directory)}",
        NO_SUBDIR,
    ]


def _asked(argv: list[str], name: str) -> str | None:
    """The last value of `name`; None where there is none."""
    values = [a.removeprefix(name).strip("'\"") for a in argv if a.startswith(name)]
    return values[-1] if values and values[-1] not in ("", "null") else None


def _merged(old: list[str], new: list[str]) -> list[str]:
    return list({key_of(a): a for a in [*old, *new]}.values())


def _sweep(argv: list[str], directory: Path) -> list[str]:
    require(
        (directory / SWEEP).is_file(),
        f"sweep.resume={directory}: this is not a sweep's directory (it has no {SWEEP}).",
    )
    saved: Any = OmegaConf.load(directory / SWEEP)
    old = [o for o in (*saved.hydra.overrides.task, *saved.hydra.overrides.hydra) if o != "hydra.mode=MULTIRUN"]
    require(
        not _asked(argv, "resume="), "resume= goes on with one run, sweep.resume= with a sweep: leave one of them out."
    )
    flags = [a for a in argv if a.startswith("-") and a not in ("-m", "--multirun")]
    require(not flags, f"{' '.join(flags)}: sweep.resume= takes overrides alone.")
    new = [a for a in argv if not a.startswith(("-", "sweep.resume="))]
    merged = [a for a in _merged(old, new) if not a.startswith(("hydra.sweep.dir=", "sweep.resume="))]
    return ["-m", *merged, f"sweep.resume={quoted(directory)}", f"hydra.sweep.dir={quoted(directory)}"]


def check(cfg: DictConfig, run_dir: Path) -> None:
    """Compare a config with the one the run was started with.

    Raises:
        UserError: naming every option that contradicts the run, or a `trainer.max_epochs` that the
            schedule does not allow; also where there is nothing to go on from, or nothing left to do.
    """
    saved = OmegaConf.load(run_dir / rundir.CONFIG)
    assert isinstance(saved, DictConfig)
    require(
        Path(saved.run_dir) == Path(cfg.run_dir),
        f"resume={run_dir}: the run was made in {saved.run_dir}, and its checkpoints know that path. Move it back.",
    )
    was, now = (flat(OmegaConf.to_container(c, resolve=True)) for c in (saved, cfg))
    different = [
        f"{key}={now.get(key)} (the run has {was.get(key)})"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) and key not in FREE and not key.startswith(WIRING)
    ]
    require(
        not different,
        f"resume={run_dir}: a run goes on as it began, but these differ: {'; '.join(different)}. "
        "Leave them out, or start a new run with them.",
    )
    before, after = was["trainer.max_epochs"], now["trainer.max_epochs"]
    require(
        after == before or (after > before and _may_grow(saved)),
        f"trainer.max_epochs={after}: the run was planned for {before} epochs. It may only grow, and only where "
        "nothing depends on it: a schedule that is constant, plateau, or multistep with milestones in epochs, a "
        "warm-up in epochs, and images of one size throughout (data.start_share=0).",
    )
    status = rundir.read_json(run_dir / rundir.STATUS)["status"]
    require(
        status != "finished" or after > before,
        f"resume={run_dir}: the run is finished. Where its schedule allows more epochs, raise trainer.max_epochs.",
    )
    require(
        (run_dir / rundir.LAST).is_file(),
        f"resume={run_dir}: it has no {rundir.LAST}, because it ended before its first epoch did. "
        "There is nothing to go on from: start it again.",
    )


def overrides(directory: Path) -> list[str]:
    """What was typed for the run in `directory`, without `resume`; nothing where that was not kept."""
    file = directory / OVERRIDES
    typed: Any = OmegaConf.load(file) if file.is_file() else []
    return [o for o in typed if key_of(o) != "resume"]


def key_of(override: str) -> str:
    """What an override sets."""
    return override.partition("=")[0].lstrip("+~")


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists stay whole."""
    if isinstance(node, Mapping) and node:
        return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def _may_grow(cfg: DictConfig) -> bool:
    scheduler = cfg.scheduler
    name = scheduler["_target_"].rpartition(".")[2]
    if cfg.data.start_share > 0 and cfg.data.start_scale < 1:
        return False
    if 0 < scheduler.get("warmup", 0) < 1:  # a fraction of the run
        return False
    if name == "multistep":
        return all(isinstance(m, int) for m in scheduler["milestones"])
    return name in ("plateau", "constant")


def quoted(path: Path) -> str:
    """A path as a value of Hydra's override grammar."""
    # Backslashes count there before a quote, and at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(path)) + "'"
