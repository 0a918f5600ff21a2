"""What every command does with mistakes: one sentence on standard error, exit code 2; 130 for Ctrl-C.

Hydra prints several lines and hints about its own switches; its errors are rewritten here, with the nearest names.
A mistake in our own code is no user's mistake and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nas.architecture import ArchitectureError, did_you_mean

CONF = Path(__file__).resolve().parent.parent / "conf"
DESIGNS = CONF / "designs"
USAGE_ERROR, INTERRUPTED = 2, 130


class UserError(ValueError):
    """A mistake on the command line or in a file. The message is one sentence for a user."""


def with_default_budget(arguments: list[str]) -> list[str]:
    """The arguments with `budget=gpu_1h` where the machine has an NVIDIA GPU and no budget is named.

    Looks for the driver's device file: asking torch would take seconds before help can be shown.
    """
    named = any(a.lstrip("+~").split("=")[0] == "budget" for a in arguments[1:])
    return arguments if named or not Path("/dev/nvidia0").exists() else [*arguments, "budget=gpu_1h"]


def run_command(main: Callable[[], None], config_name: str = "config") -> None:
    """Run a Hydra command and exit with its code; a configuration that cannot be composed is one sentence."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Threads that wait by spinning take the cores from each other as soon as anything else runs: a decode step of 30 ms
    # then takes 800. Must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        main()
    except BrokenPipeError:
        # The reader of our output has left (`| head`); nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, sys.argv[1:], config_name))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        fail("A group on the command line must name one of its files, such as tracker=none, but got none.")
    except OSError as error:
        if error.filename is None or "hydra" not in Path(str(error.filename)).parts:
            raise
        # Hydra makes its folder inside the output before our code runs.
        fail(f"The output folder must be writable, but {error.filename} is not ({error.strerror}); set outputs=FOLDER.")


@contextmanager
def speaking_to_users() -> Iterator[None]:
    """Around the body of a command: user errors become one sentence and exit code 2, Ctrl-C exit code 130.

    Inside the command, because Hydra adds a line of its own to every exception that leaves it.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not is_user_error(error):
            raise
        fail(str(error))


def fail(sentence: str) -> None:
    """Print one sentence to standard error and exit."""
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def is_user_error(error: Exception) -> bool:
    """Whether an exception speaks to the user. Rooms that need torch are asked only if they have been imported."""
    kinds: list[type] = [UserError, ArchitectureError]
    for module, name in (
        ("nas.objectives", "ObjectiveError"),
        ("nas.workload", "WorkloadError"),
        ("nas.tasks", "TaskError"),
        ("nas.training.recipe", "RecipeError"),
        ("nas.study.samplers", "SamplerError"),
        ("nas.study.storage", "StudyError"),
        ("nas.checkpoint", "CheckpointError"),
        ("nas.report", "ReportError"),
    ):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return isinstance(error, tuple(kinds))


def explain(error: Exception, arguments: list[str], config_name: str) -> str:
    """Hydra's or OmegaConf's complaint as one sentence with the nearest valid names."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if error.options:
            return f"There is no {group.replace('_', ' ')} {choice!r}. {did_you_mean(choice, error.options)}"
        return f"There is no configuration {error.missing_cfg_file!r}."
    if isinstance(error, OverrideParseException):
        return (
            f"The argument {error.override!r} must be field=value or group=choice; quote lists and braces in a shell."
        )
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        for argument in arguments:
            sentence = unknown_field(argument, config_name)
            if sentence:
                return sentence
        message = str(error.__cause__ or error)
        return message.splitlines()[0]
    return str(error)


def unknown_field(argument: str, config_name: str) -> str | None:
    """The sentence for an override whose field does not exist, or None if it does."""
    path = argument.lstrip("+~").split("=", 1)[0].split("@")[0]
    if argument.startswith(("-", "+")) or "=" not in argument:
        return None
    node: Any = composed_default(config_name)
    done: list[str] = []
    for key in path.split("."):
        names = list(node) if isinstance(node, Mapping | DictConfig) else []
        if not done:
            names = sorted({*names, "hydra", *(p.name for p in CONF.iterdir() if p.is_dir() and p != DESIGNS)})
        if key not in names:
            place = ".".join(done)
            where = f"{place} has no field" if place else "There is no field or group"
            if not names:
                return f"{place} is a single value, but {argument!r} asks for a field of it."
            return f"{where} {key!r} ({argument}). {did_you_mean(key, names)}"
        if key == "hydra" and not done:
            return None
        node = node[key] if isinstance(node, Mapping | DictConfig) and key in node else {}
        done.append(key)
    return None


def composed_default(config_name: str) -> dict[str, Any]:
    """The configuration without overrides, interpolations left as they are."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(config_name)
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]
