"""Any error as one message."""

import re

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from cifar_pl.config import place, schema
from cifar_pl.errors import UserError, full_key, install, nearest

FULL_ERROR = "HYDRA_FULL_ERROR"
WANTED = "CIFAR_PL_FULL_ERROR"  # what the user set it to, for further processes of the run


def explain(error: BaseException) -> str:
    """What is wrong, why, and the nearest names if a name is unknown."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        message = f"{error}\n{error.__cause__ or ''}".partition("Config search path")[0]
        lines = dict.fromkeys(line.strip() for line in message.splitlines())  # ordered, each once
        text = " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type")))
        key = full_key(message)
        text += f" ({key})" if key not in text else ""
        override = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
        return override + text + _hint(text)
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''} (the run stopped here; what was written stays)"
    return f"{type(error).__name__}: {error} ({FULL_ERROR}=1 shows where; a run keeps it in its train.log)"


def _hint(text: str) -> str:
    if "hydra/launcher/submitit" in text:
        return f" It is an optional part: {install('sweep')}"
    if option := re.search(r"Could not find '([\w-]+)/([^']+)'", text):
        return nearest(option[2], (path.stem for path in (place.CONF / option[1]).glob("*.yaml")))
    if key := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        groups = (path.name for path in place.CONF.iterdir() if path.is_dir())
        return nearest(key[1], [*groups, *schema.values()])
    return ""
