"""Whether everything that a report needs is there, found out before the first trial and not after the last."""

import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.report.errors import ReportError
from nas.report.files import replace_atomically, write_atomically
from nas.report.tracker import TrackerSettings


def check_ready(directory: Path, tracker: Mapping[str, Any]) -> None:
    """Write a tiny picture and page into `directory` and remove them; raises ReportError with what is missing.

    `tracker` holds the fields of TrackerSettings; W&B is imported unless its mode is `disabled`.
    """
    settings = TrackerSettings.from_config(tracker)
    for library, purpose in (("matplotlib", "front.png"), ("plotly", "front.html")):
        _import(library, f"{library} is needed to write {purpose}")
    if settings.resolved_mode() != "disabled":
        _import("wandb", "wandb is needed for tracking; tracker=none does without")
    _write_samples(directory)


def _import(library: str, purpose: str) -> None:
    try:
        import_module(library)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ReportError(f"{purpose}, but it cannot be imported ({reason}); install the project again.") from None


def _write_samples(directory: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from plotly.offline import get_plotlyjs

    figure = Figure(figsize=(1, 1), dpi=20)
    FigureCanvasAgg(figure)
    picture, page = (directory / f".ready-{secrets.token_hex(4)}.{kind}" for kind in ("png", "html"))
    try:
        replace_atomically(picture, lambda temporary: figure.savefig(temporary, format="png"))
        write_atomically(page, f"<script>{get_plotlyjs()[:100]}</script>")
        picture.unlink()
        page.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"The report is written into {directory}, but that is not possible ({reason}); choose another outputs=..."
        ) from None
