"""docs/families.md says what the code at hand and the last run of the oracles say."""

import json

from scripts.interop_oracles import ORACLES
from scripts.list_families import NUMBERS, PAGE, rendered
from scripts.methods import METHODS, told


def test_the_page_is_what_the_last_numbers_and_the_methods_come_to():
    assert PAGE.read_text() == rendered(json.loads(NUMBERS.read_text())), "run scripts/list_families.py --render"


def test_every_oracle_was_run_and_was_close():
    oracles = json.loads(NUMBERS.read_text())
    assert set(oracles) == set(ORACLES), "run scripts/list_families.py"
    for name, oracle in oracles.items():
        assert max(oracle["logits"], oracle["decoding"]) < 1e-4, name
        assert oracle["continued"], name


def test_every_method_is_held_against_something():
    oracles = json.loads(NUMBERS.read_text()).values()
    for method in METHODS:
        assert method.tests or any(method.name in oracle["methods"] for oracle in oracles), method.name
        assert all((PAGE.parents[1] / test).exists() for test in method.tests), method.name


def test_options_are_told_as_files_write_them():
    (window,) = (method for method in METHODS if method.name.startswith("Sliding window"))
    assert told(window) == "`attention`: `window`"
    (full,) = (method for method in METHODS if "over all heads" in method.name)
    assert told(full) == "`attention`: `qk_norm: full`"
