"""The hash of a kernel's source follows everything that the compiler reads, and nothing else."""

import importlib.util
import itertools
import sys

import pytest

from kernels.source_hash import source_hash

CONSTANTS = """
import triton.language as tl

OFFSET = tl.constexpr(0.5)
"""
KERNEL = """
import triton
import triton.language as tl
import constants_of_the_kernel as constants

SCALE = tl.constexpr(2.0)
INTEGERS = ["n"]
FACTOR = 3.0


@triton.jit
def scaled(x):
    return x * SCALE


@triton.jit
def moved(x):
    return scaled(x) + constants.OFFSET


@triton.jit
def again(x):
    return scaled(x) - constants.OFFSET


@triton.jit(do_not_specialize=INTEGERS)
def kernel(x, n, BLOCK: tl.constexpr):
    \"\"\"Scales and moves.\"\"\"
    at = tl.arange(0, BLOCK)
    FACTOR = tl.load(x + at, mask=at < n)  # a name of its own
    tl.store(x + at, moved(FACTOR), mask=at < n)
"""


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    """The hash of `kernel` in a module of this text, and of the module with its constants."""
    numbers = itertools.count()

    def load(name, text):
        path = tmp_path / f"{name}_{next(numbers)}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    def hashed(text=KERNEL, constants=CONSTANTS):
        load("constants_of_the_kernel", constants)
        return source_hash(load("the_kernel", text).kernel)

    return hashed


def changed(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("at < n", "at <= n"),
        ("x * SCALE", "x / SCALE"),
        ("scaled(x) + ", "scaled(x) - "),
        ("moved(FACTOR)", "again(FACTOR)"),
        ("SCALE = tl.constexpr(2.0)", "SCALE = tl.constexpr(2.5)"),
        ('INTEGERS = ["n"]', "INTEGERS = []"),
        ("jit\ndef moved", "jit(noinline=True)\ndef moved"),
    ],
)
def test_a_change_of_what_the_compiler_reads_changes_the_hash(old, new, hash_of):
    assert hash_of(changed(KERNEL, old, new)) != hash_of()


def test_a_changed_constant_of_another_module_changes_the_hash(hash_of):
    assert hash_of(constants=changed(CONSTANTS, "0.5", "0.25")) != hash_of()
    assert hash_of(constants=changed(CONSTANTS, "OFFSET", "OTHER = tl.constexpr(1)\nOFFSET")) == hash_of()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = ", "# Two lines\n\nSCALE = "),
        ("  # a name of its own", ""),
        ("    at = ", "\n    # Where this program stands.\n    at = "),
        ("Scales and moves.", "Moves what it\n    has scaled."),
        ("def again(x):", "def again(x, y):"),
        ("FACTOR = 3.0", "FACTOR = 4.0"),
    ],
)
def test_a_moved_line_or_a_word_for_readers_or_what_is_not_read_does_not(old, new, hash_of):
    assert hash_of(changed(KERNEL, old, new)) == hash_of()


def test_a_function_that_calls_itself_has_a_hash(hash_of):
    text = changed(KERNEL, "return x * SCALE", "return scaled(x) * SCALE")
    assert hash_of(text) == hash_of(text) != hash_of()
