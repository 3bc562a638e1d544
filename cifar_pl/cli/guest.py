"""A training inside somebody's program or notebook: it leaves the process as it was."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.seed import isolate_rng

from cifar_pl.cli import command, messages
from cifar_pl.errors import UserError


@contextmanager
def guest() -> Iterator[None]:
    """Give back loggers, warnings, random state, torch's switches and Ctrl-C; a mistake is a UserError.

    Raises:
        KeyboardInterrupt: for Ctrl-C, also where Lightning makes a SystemExit of it.
    """
    loggers = [logging.getLogger(name) for name in (None, *command.LIBRARIES)]
    logged = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(), isolate_rng():
        try:
            command.quiet()
            yield
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        except (command.Failed, HydraException, OmegaConfBaseException) as caught:
            error = (isinstance(caught, command.Failed) and caught.__cause__) or caught
            if isinstance(error, (HydraException, OmegaConfBaseException)):
                raise UserError(messages.explain(error)) from error
            raise error from error.__cause__
        finally:
            logging.captureWarnings(False)
            for logger, handlers, level, propagate in logged:
                for handler in set(logger.handlers) - set(handlers):
                    handler.close()  # of the run's log
                logger.handlers[:], logger.propagate = handlers, propagate
                logger.setLevel(level)
            torch.use_deterministic_algorithms(deterministic)
            torch.backends.cudnn.benchmark = benchmark
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, interrupt)  # Lightning ignores it after the first
