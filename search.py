"""The search as a command: `python search.py search_space=hybrid`. Composes the configuration, builds, runs.

Torch is imported after the configuration has been checked, so that help and mistakes are answered at once.
"""

import sys
import time

START = time.perf_counter()

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from scripts.command_line import UserError, fail, run_command, with_default_budget  # noqa: E402
from scripts.launching import is_launched, prepare_launch, speaking  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    # A worker that a launcher started has a clock of its own.
    start = time.perf_counter() if is_launched() else START
    with speaking():
        from scripts.settings import SearchSettings

        settings = SearchSettings.from_config(config)

        from scripts.search_job import run_search

        run_search(settings, start=start)


if __name__ == "__main__":
    sys.argv = with_default_budget(sys.argv)
    try:
        prepare_launch(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    run_command(main)
