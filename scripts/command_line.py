"""What every command does with mistakes: one sentence on standard error, exit code 2; 130 for Ctrl-C.

* Hydra prints several lines and hints about its own switches; its errors are rewritten here, with the nearest names.
* A mistake in our own code is no user's mistake and keeps its traceback.
* Hydra writes no file and makes no folder: a command that is refused leaves no trace, and one that runs writes its
  configuration itself once everything has been checked.
"""

import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
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
from scripts.exit_codes import INTERRUPTED, USAGE_ERROR

CONF = Path(__file__).resolve().parent.parent / "conf"
DESIGNS = CONF / "designs"
NVIDIA_DEVICE = Path("/dev/nvidia0")
BRIEF_SPINS = "2000"  # of a waiting OpenMP thread: microseconds
# The folder of a run is where it was started, which exists; nothing is put into it.
# Whose keys are any names that a search space offers: what reads them knows which, Hydra does not.
OPEN_FIELDS = re.compile(r"priors\.(?:mixers|first)[.=]")
WRITE_NOTHING = ("hydra.run.dir=.", "hydra.output_subdir=null")
LAUNCHERS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}  # and the extra that brings each


class UserError(ValueError):
    """A mistake on the command line or in a file. The message is one sentence for a user."""


def with_default_budget(arguments: list[str]) -> list[str]:
    """The arguments with `budget=gpu_1h` where no budget is named and the run will find an NVIDIA GPU.

    Looks for the driver's device file and at the build of torch: asking torch would take seconds before help can be
    shown. `device=cpu` asks for no GPU.
    """
    named = any(field_of(a) == "budget" for a in arguments[1:])
    if named or "device=cpu" in arguments[1:] or not NVIDIA_DEVICE.exists() or not torch_has_cuda():
        return arguments
    return with_overrides(arguments, ["budget=gpu_1h"])


def with_overrides(arguments: list[str], overrides: Sequence[str]) -> list[str]:
    """The arguments with these overrides right before those that are there: switches may not stand between them."""
    places = [i for i, a in enumerate(arguments) if i > 0 and a[:1] not in ("", "-") and ("=" in a or a[0] == "~")]
    place = places[0] if places else len(arguments)
    return [*arguments[:place], *overrides, *arguments[place:]]


def with_open_fields(arguments: Sequence[str]) -> list[str]:
    """The arguments with `++` before those that may bring keys of their own, which Hydra takes from no others."""
    return [f"++{argument}" if OPEN_FIELDS.match(argument) else argument for argument in arguments]


def torch_has_cuda() -> bool:
    """Whether the installed torch is a build with CUDA, read from its version file without importing it."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda\b[^=\n]*=\s*None\s*$", text, re.MULTILINE) is None


def wait_briefly() -> None:
    """Let torch's threads spin for some microseconds before they sleep; to be called before torch is imported.

    Those that spin on take the cores from each other as soon as anything else runs; those that never spin lose time at
    every wait on an idle machine (scripts/benchmark_waiting.py).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", BRIEF_SPINS)


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write the composed configuration as `config.yaml` into the folder of a run, whole or not at all.

    For a command to call once it holds the folder and nothing can be refused any more.
    """
    partial = directory / f".config.yaml.{secrets.token_hex(4)}.partial"
    partial.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")
    partial.replace(directory / "config.yaml")


def run_command(main: Callable[[], None], config_name: str = "config") -> None:
    """Run a Hydra command and exit with its code; a configuration that cannot be composed is one sentence."""
    arguments = sys.argv[1:]
    sys.argv = with_overrides(with_open_fields(sys.argv), WRITE_NOTHING)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    wait_briefly()
    try:
        with composing(arguments, config_name):
            main()
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader of our output has left (`| head`); nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


@contextmanager
def composing(arguments: Sequence[str], config_name: str = "config") -> Iterator[None]:
    """Around the composition of `config_name` from `arguments`: Hydra's errors become a UserError, one sentence."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, arguments, config_name)) from None
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        raise UserError(
            "A group on the command line must name one of its files, such as tracker=none, but got none."
        ) from None


@contextmanager
def speaking_to_users(*, interrupted: str = "The same command goes on from here.") -> Iterator[None]:
    """Around the body of a command: user errors become one sentence and exit code 2, Ctrl-C exit code 130.

    Inside the command, because Hydra adds a line of its own to every exception that leaves it.

    interrupted: what holds for this command after Ctrl-C, as one sentence.
    """
    try:
        yield
    except BrokenPipeError:
        # The reader of our output has left (`| head`); nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print(f"Interrupted. {interrupted}", file=sys.stderr)
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
        ("nas.study.rungs", "RungsError"),
        ("nas.study.samplers", "SamplerError"),
        ("nas.study.errors", "StudyError"),
        ("nas.study.recommendation", "NoRecommendation"),
        ("nas.study.truth.oracle", "OracleError"),
        ("nas.measure", "TableError"),
        ("nas.measure", "DeviceBusy"),
        ("nas.measure", "DeviceGone"),
        ("nas.measure", "DoesNotFit"),
        ("nas.count", "CannotMatch"),
        ("nas.checkpoint", "CheckpointError"),
        ("nas.interop", "InteropError"),
        ("nas.report", "ReportError"),
    ):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return isinstance(error, tuple(kinds))


def explain(error: Exception, arguments: Sequence[str], config_name: str) -> str:
    """Hydra's or OmegaConf's complaint as one sentence with the nearest valid names."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            return f"{group}={choice} is not installed; install the extra: pip install -e '.[{LAUNCHERS[choice]}]'."
        if error.options:
            return f"There is no {group.replace('_', ' ')} {choice!r}. {did_you_mean(choice, error.options)}"
        return f"There is no configuration {error.missing_cfg_file!r}."
    if isinstance(error, OverrideParseException):
        return (
            f"The argument {error.override!r} must be field=value or group=choice; quote lists and braces in a shell."
        )
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        argument = wrong_argument(arguments, config_name)
        message = str(error.__cause__ or error).splitlines()[0]
        if argument is None:
            return message
        return unknown_field(argument, arguments, config_name) or f"The argument {argument!r} cannot be used: {message}"
    return str(error)


def names_group(group: str, overrides: Sequence[str]) -> bool:
    """Whether one of the overrides chooses a file of the group or sets one of its fields."""
    return any(field_of(override).split(".")[0] == group for override in overrides)


def field_of(argument: str) -> str:
    """The group or dotted field that an override is about."""
    return argument.lstrip("+~").split("=", 1)[0].split("@")[0]


def chosen_groups(arguments: Sequence[str]) -> list[str]:
    """The arguments that choose a file which exists: `task=text`, but neither `task=txt` nor `task.dataset=x`."""
    return [a for a in arguments if a[:1].isalpha() and (CONF / field_of(a) / f"{a.split('=', 1)[-1]}.yaml").is_file()]


def wrong_argument(arguments: Sequence[str], config_name: str) -> str | None:
    """The first override that cannot be composed with the groups that the command line chooses; None without one."""
    groups = chosen_groups(arguments)
    for argument in arguments:
        is_override = "=" in argument or argument.startswith("~")
        if argument.startswith("-") or argument in groups or not is_override:
            continue
        try:
            composed([*groups, argument], config_name)
        except (HydraException, OmegaConfBaseException):
            return argument
    return None


def unknown_field(argument: str, arguments: Sequence[str], config_name: str) -> str | None:
    """The sentence for an override whose field does not exist, or None if it does."""
    if argument.startswith("+"):
        return None
    node: Any = composed(chosen_groups(arguments), config_name)
    done: list[str] = []
    for key in field_of(argument).split("."):
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


def composed(overrides: Sequence[str], config_name: str) -> dict[str, Any]:
    """The configuration with these overrides alone, interpolations left as they are."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(config_name, overrides=with_open_fields(overrides))
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]
