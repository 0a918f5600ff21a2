"""The shipped table of learning rates, per task and mixer family, and what it was measured with.

The table lies beside this file as JSON and is written by `scripts/tune_lr.py`; nothing else writes it.
"""

import json
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("learning_rates.json")
# A mixed stream is mostly limited by its harder part.
SAME_AS = {"mixed": "recall"}


def learning_rates(task: str) -> dict[str, float]:
    """Peak learning rate by mixer family for a task's name. Raises KeyError for a task the table does not hold."""
    rows = read_table()["tasks"][SAME_AS.get(task, task)]
    return {family: float(row["rate"]) for family, row in rows.items()}


def read_table() -> dict[str, Any]:
    """The whole table with its provenance."""
    return json.loads(TABLE.read_text())
