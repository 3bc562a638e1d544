"""Windows lacks most of `signal`; the rest of what is Unix's own is asked for before it is used."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import importlib, pathlib, signal, sys
from omegaconf import OmegaConf

files = [p for folder in ("cifar_pl", "hydra_plugins") for p in pathlib.Path(folder).rglob("*.py")]
names = [".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in files]
for name in names:
    importlib.import_module(name)  # other people's packages take from `signal` what they want, on Windows other things
for name in [n for n in sys.modules if n.partition(".")[0] in ("cifar_pl", "hydra_plugins")]:
    del sys.modules[name]
windows = {"signal", "raise_signal", "getsignal", "default_int_handler", "strsignal", "valid_signals", "set_wakeup_fd"}
windows |= {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN", "Signals", "Handlers"}
for name in [n for n in vars(signal) if not n.startswith("_") and n not in windows]:
    delattr(signal, name)
for name in names:
    importlib.import_module(name)

from cifar_pl.cli import command
from cifar_pl.sweeps import slots
done = []
assert command.job(lambda cfg: cfg.score, OmegaConf.create({"score": 0.5})) == 0.5
assert command.run(lambda: slots.run_all([done.append] * 3, [{"n": "0"}, {"n": "1"}], lambda: True)) == 0
assert len(done) == 3
command.run(lambda: command._terminate(signal.SIGTERM, None))  # no requeue: it exits
"""


@pytest.mark.slow
def test_every_module_is_imported_and_jobs_run_without_the_signals_that_are_unixs_own() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 143, done.stderr
