"""The configuration that a search left in its folder, as whatever goes on from the study reads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.command_line import UserError


def read_study_config(directory: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """`config.yaml` of a study. needed: fields beside its name that the caller reads.

    Raises UserError where the file is missing, torn, or lacks one of the fields.
    """
    path = directory / "config.yaml"
    if not path.exists():
        raise UserError(f"There is no study in {directory}: {path} is missing; give the folder that search.py wrote.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); the command of the search writes it anew.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold the fields of a search, but got {config!r:.40}; the search writes it anew.")
    for name in ("study", *needed):
        if name not in config:
            raise UserError(f"{path} lacks the field {name!r}; the command of the search writes it anew.")
    return config


def field_value(argument: str) -> Any:
    """What stands behind `=` of a field, read as YAML. Raises UserError for what is none."""
    try:
        return yaml.safe_load(argument.partition("=")[2])
    except yaml.YAMLError:
        raise UserError(
            f"The argument {argument!r} has a value that cannot be read; close its quotes and braces."
        ) from None
