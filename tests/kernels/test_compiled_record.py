"""What is recorded is not compiled again, and a record that is old, gone or wrong is found out."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from kernels import ahead_of_time, compiled_record
from kernels.ahead_of_time import ARCHITECTURES, OPS, cases_of, content_hash, gaps, main
from kernels.compiled_record import FOLDER, Resources, compiled_again, path_of, read_record, recorded_version

OP = "glu"
GAPS = "import json; from kernels.ahead_of_time import OPS, gaps; print(json.dumps({op: gaps(op) for op in OPS}))"


class Compiler:
    """Stands for Triton's: what compiles to what, and which cases it was asked for."""

    def __init__(self):
        self.asked: list[tuple[str, int]] = []
        self.found = Resources(96, 0, 1024)

    def __call__(self, case, arch):
        self.asked.append((case.name, arch))
        return self.found

    def asked_for(self):
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def compiler(monkeypatch):
    compiler = Compiler()
    monkeypatch.setattr(ahead_of_time, "compile_case", compiler)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return compiler


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """Two dozen cases of an operation without a record; a test may change them."""
    monkeypatch.setattr(compiled_record, "FOLDER", tmp_path)
    case = cases_of(OP)[0]
    cases = [replace(case, name=f"case {n}", constexprs=case.constexprs | {"BLOCK_R": n}) for n in range(1, 25)]
    monkeypatch.setattr(ahead_of_time, "cases_of", lambda op: cases)
    return cases


def run(*arguments):
    return main(["--op", OP, *arguments])


def test_the_record_has_every_case_as_it_is_now_and_no_other():
    import triton

    others = {op: version for op in OPS if (version := recorded_version(op)) not in (None, triton.__version__)}
    if others:
        pytest.skip(f"recorded under another Triton than {triton.__version__}: {others}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    finished = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    found = [sentence for op in OPS for sentence in json.loads(finished.stdout)[op]]
    if found:
        pytest.fail(
            f"Run `python -m kernels.ahead_of_time --record` and commit what it writes: {' '.join(found[:5])} "
            f"{len(found)} of this kind.",
            pytrace=False,
        )
    assert {path.stem for path in FOLDER.iterdir()} == set(OPS), "the file of an operation that is gone"


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"num_warps": 16}},
        {"constexprs": {"ACT": 5}},
        {"multiples_of_16": ()},
        {"signature": {"N": "i64"}},
    ],
)
def test_the_hash_of_a_case_follows_its_launch(change):
    case = cases_of(OP)[0]
    fields = {name: getattr(case, name) | new if isinstance(new, dict) else new for name, new in change.items()}
    assert content_hash(replace(case, **fields)) != content_hash(case)


def test_the_hash_of_a_case_follows_the_source_of_its_kernel_and_not_the_name(monkeypatch):
    case = cases_of(OP)[0]
    before = content_hash(case)
    assert content_hash(replace(case, name="another name")) == before
    monkeypatch.setattr(ahead_of_time, "source_hash", lambda kernel: "of another source")
    assert content_hash(case) != before


def test_what_is_recorded_is_compiled_no_more_but_for_a_share_that_hashes_choose(cases, compiler, capsys):
    assert run("--record") == 0
    assert compiler.asked_for() == [(case.name, arch) for case in cases for arch in ARCHITECTURES]
    assert run("--record") == 0
    assert compiler.asked_for() == []
    capsys.readouterr()
    assert run("--sparing") == 0
    again = compiled_again(read_record(OP))
    assert again == sorted(content_hash(case) for case in cases)[:2]
    assert sorted(name for name, _ in compiler.asked_for()) == sorted(
        read_record(OP)[content].name for content in again
    )
    assert capsys.readouterr().out.count("  recorded\n") == len(cases) * len(ARCHITECTURES)


def test_without_an_option_everything_is_compiled(cases, compiler):
    run("--record")
    compiler.asked.clear()
    assert run() == 0
    assert len(compiler.asked_for()) == len(cases) * len(ARCHITECTURES)


def test_what_has_changed_is_compiled_in_turn_and_then_recorded(cases, compiler):
    run("--record")
    cases[3] = replace(cases[3], options={"num_warps": 16})
    assert gaps(OP) == ["The record lacks case 4 as it is now.", "The record has case 4 as it was once."]
    compiler.asked.clear()
    assert run("--sparing") == 0
    assert {("case 4", 80)} <= set(compiler.asked_for())
    assert run("--record") == 0
    assert compiler.asked_for() == [("case 4", arch) for arch in ARCHITECTURES]
    assert gaps(OP) == []


def test_the_record_keeps_nothing_of_cases_that_are_gone(cases, compiler):
    run("--record")
    gone = cases.pop()
    assert gaps(OP) == [f"The record has {gone.name} as it was once."]
    run("--record")
    assert set(read_record(OP)) == {content_hash(case) for case in cases}
    assert gone.name not in path_of(OP).read_text()


def test_a_case_with_another_name_is_named_anew_without_compiling(cases, compiler):
    run("--record")
    compiler.asked.clear()
    cases[0] = replace(cases[0], name="another")
    assert gaps(OP) == ["The record lacks another as it is now."]
    assert run("--record") == 0
    assert compiler.asked_for() == [] and gaps(OP) == []


def test_a_record_without_an_architecture_is_filled(cases, compiler):
    run("--record")
    compiler.asked.clear()
    content = content_hash(cases[0])
    rewrite(lambda fields: fields.pop("90") if fields["hash"] == content else None)
    assert gaps(OP) == ["The record lacks case 1 as it is now."]
    assert run("--record") == 0
    assert compiler.asked_for() == [("case 1", arch) for arch in ARCHITECTURES] and gaps(OP) == []


@pytest.mark.parametrize("lie", [[95, 0, 1024, True], [96, 8, 1024, True], [96, 0, 512, True], [96, 0, 1024, False]])
def test_a_record_that_lies_is_found(lie, cases, compiler, capsys):
    run("--record")
    chosen = compiled_again(read_record(OP))[0]
    rewrite(lambda fields: fields.update({"80": lie, "90": lie, "100": lie}) if fields["hash"] == chosen else None)
    capsys.readouterr()
    assert run("--sparing") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "spills" not in line]
    assert len(said) == 1 and f"delete {path_of(OP)} and run `python -m kernels.ahead_of_time --record`" in said[0]
    path_of(OP).unlink()
    assert run("--record") == 0
    assert run("--sparing") == 0


def test_what_spilled_when_it_was_recorded_is_a_complaint_each_time(cases, compiler, capsys):
    compiler.found = Resources(255, 48, 1024)
    assert run("--record") == 1
    capsys.readouterr()
    assert run("--sparing") == 1
    assert capsys.readouterr().err.count("spills 48 bytes") == len(cases) * len(ARCHITECTURES)


def test_under_another_version_of_triton_everything_is_compiled(cases, compiler, monkeypatch):
    run("--record")
    before = path_of(OP).read_text()
    compiler.asked.clear()
    monkeypatch.setattr(compiled_record, "triton_version", lambda: "9.9.9")
    assert run("--sparing") == 0
    assert [name for name, _ in compiler.asked_for()] == [case.name for case in cases]
    assert path_of(OP).read_text() == before and recorded_version(OP) != "9.9.9"
    assert run("--record") == 0
    assert len(compiler.asked_for()) == len(cases) * len(ARCHITECTURES)
    assert recorded_version(OP) == "9.9.9"


def test_a_record_is_a_line_for_each_case_in_order_of_names(cases, compiler):
    run("--record")
    head, *lines, tail = path_of(OP).read_text().splitlines()
    assert json.loads(f"{head}{''.join(lines)}{tail}")
    names = [json.loads(line.rstrip(","))["case"] for line in lines]
    assert names == sorted(case.name for case in cases)
    cases.reverse()
    before = path_of(OP).read_text()
    run("--record")
    assert path_of(OP).read_text() == before


@pytest.mark.parametrize(
    "text", ["<<<<<<<", "{}", '{"triton": "3.8.0", "cases": [{"case": "a", "hash": "b", "80": [1]}]}']
)
def test_a_file_that_is_no_record_is_refused_with_the_way_out(text, cases, compiler):
    path_of(OP).write_text(text)
    with pytest.raises(ValueError, match="restore the file, or delete it"):
        run("--sparing")


def test_a_record_of_some_architectures_is_refused(capsys):
    with pytest.raises(SystemExit):
        run("--record", "--arch", "90")
    assert "leave out --arch" in capsys.readouterr().err


def rewrite(change):
    """The file of the record with each line changed by hand."""
    content = json.loads(path_of(OP).read_text())
    for fields in content["cases"]:
        change(fields)
    path_of(OP).write_text(json.dumps(content))
