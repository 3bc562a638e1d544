"""What a search learnt, for its page: its trials, and how much each parameter mattered."""

import logging
from contextlib import suppress
from pathlib import Path

from cifar_pl.errors import reason
from cifar_pl.reporting.comparison_page import Search
from cifar_pl.runs import rundir

log = logging.getLogger(__name__)

# Finished trials for an importance: with 15 the one of three parameters that mattered came first in 20 of 20 made-up
# searches, with 10 in 16.
ENOUGH = 15


def read(directory: Path) -> Search | None:
    """The finished trials of the search in a directory; None if there was none, or its file cannot be read."""
    path = directory / rundir.STUDY
    if not path.is_file():
        return None
    try:
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # an optional part, and seconds
        from optuna.trial import TrialState

        from cifar_pl.sweeps.study import opened

        study = opened(path)
        trials = [t for t in study.get_trials(states=[TrialState.COMPLETE]) if t.values]
        shared = [key for key in trials[0].params if all(key in t.params for t in trials)] if trials else []
        varied = [key for key in shared if len({t.params[key] for t in trials}) > 1]
        if not varied:
            return None
        monitor = study.user_attrs["fixed"]["monitor"]
        rows = [{**{key: t.params[key] for key in varied}, monitor: t.value} for t in trials]
        log_scaled = {key for key in varied if getattr(trials[-1].distributions[key], "log", False)}
        importance = {}
        if len(trials) >= ENOUGH and len(varied) > 1:
            with suppress(RuntimeError):  # all trials are equally good
                # Hutter et al. 2014; it has a seed of its own.
                importance = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
        return Search(rows, log_scaled, study.direction.name[:3].lower(), importance)
    except Exception as error:  # noqa: BLE001 - optuna is missing, or a damaged file, of which SQL raises anything
        log.warning("%s is left out (%s)", path, reason(error))
        return None
