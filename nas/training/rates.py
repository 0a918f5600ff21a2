"""The shipped table of learning rates, per task and mixer family, and what it was measured with.

The table lies beside this file as JSON and is written by `scripts/tune_lr.py`; nothing else writes it.
"""

import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("learning_rates.json")
# Whose rates a task takes that has none of its own in the table. A mixed stream is mostly limited by its harder part;
# the other synthetic tasks are like recall short sequences over few tokens, with answers asked for here and there.
SAME_AS: dict[str, str] = dict.fromkeys(
    (
        *("mixed", "recall_capacity", "in_context_recall", "fuzzy_recall", "noisy_recall", "selective_copying"),
        *("compression", "memorisation", "parity", "s3"),
    ),
    "recall",
)


def learning_rates(task: str) -> dict[str, float]:
    """Peak learning rate by mixer family for a task's name: its own rows over those of the task it takes after.

    Raises KeyError for a task that neither has rows nor takes after one that has.
    """
    tasks = read_table()["tasks"]
    if task not in tasks and task not in SAME_AS:
        raise KeyError(task)
    rows = {**tasks.get(SAME_AS.get(task, task), {}), **tasks.get(task, {})}
    return {family: float(row["rate"]) for family, row in rows.items()}


def read_table() -> dict[str, Any]:
    """The whole table with its provenance."""
    return json.loads(TABLE.read_text())
