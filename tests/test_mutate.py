"""The script that makes mutants: which it makes, and that it tells those that live."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


mutants_of = load("mutants").mutants_of


def made(source: str) -> set[str]:
    """Texts of all mutants."""
    return {mutant.apply(source) for mutant in mutants_of(source)}


def test_each_kind_of_change() -> None:
    assert made("a = b < 1\n") == {"a = (b <= 1)\n", "a = (b > 1)\n", "a = b < 2\n"}
    assert made("a = b + c\n") == {"a = (b - c)\n"}
    assert made("a = -b\n") == {"a = (b)\n"}
    assert made("a = min(b)\n") == {"a = max(b)\n"}
    assert made("a = f(b, c=d, strict=e)\n") == {"a = (f(b, strict=e))\n"}
    assert made("a.b = c\n") == {"pass\n"}
    assert made("f(b)\n") == {"pass\n"}
    assert made("a = b and c\n") == {"a = (b or c)\n", "a = (b)\n", "a = (c)\n"}
    assert made("def f(a=False, b=0.5): return a\n") == {
        "def f(a=True, b=0.5): return a\n",
        "def f(a=False, b=1.0): return a\n",
        "def f(a=False, b=0.5): return None\n",
    }
    assert made("a = [b for b in c if b]\n") == {"a = [b for b in c if True]\n"}
    assert made("if a:\n    b\n") == {f"if {text}:\n    b\n" for text in ("not (a)", "True", "False")}
    assert made("for a in b:\n    continue\n") == {"for a in b:\n    pass\n"}


def test_what_no_test_should_see_is_left_alone() -> None:
    assert made('"""1 < 2."""\n') == set()
    assert made("a: int | None\n") == set()
    assert made("@f(a=1)\nclass A:\n    b: int\n") == set()
    assert made("raise ValueError(1 + a)\n") == {"pass\n"}
    assert made("a = f'{b + 1}'\n") == set()
    assert made("assert a < 1\n") == set()


def test_lines_stay_and_places_are_told() -> None:
    source = "é = '…'\ndef f(a):\n    return g(\n        a,\n        b=1,\n    )\n"
    for mutant in mutants_of(source):
        assert mutant.apply(source).count("\n") == source.count("\n")
    places = {(mutant.kind, mutant.line, mutant.lines) for mutant in mutants_of(source)}
    assert places == {
        ("value returned is None", 3, (3, 6)),
        ("argument removed", 5, (3, 6)),
        ("constant changed", 5, (3, 6)),
    }


MODULE = """def share(part, whole):
    if whole == 0:
        return 0.0
    return part / whole


def never(a):
    return a + 1
"""
TESTS = """from alignloop.toy.thing import share


def test_share():
    assert share(3, 6) == 0.5
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A package of one module with tests that miss the case of 0 and a whole function."""
    for name, text in {
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n",
        "alignloop/__init__.py": "",
        "alignloop/toy/__init__.py": "",
        "alignloop/toy/thing.py": MODULE,
        "tests/toy/test_thing.py": TESTS,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def mutate(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "scripts/mutate.py"), "alignloop/toy/thing.py", *arguments]
    return subprocess.run(program, cwd=repository, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_survivors_are_named_and_the_tree_is_left_alone(repository: Path) -> None:
    done = mutate(repository)
    assert done.returncode == 1, done.stderr
    assert (repository / "alignloop/toy/thing.py").read_text(encoding="utf-8") == MODULE
    blocks = done.stdout.split("alignloop/toy/thing.py")
    # `== 1` and `False` are not noticed, nor what becomes of 0, nor anything about `never`
    assert ":2: constant changed\n  - if whole == 0:\n  + if whole == 1:\n" in blocks
    assert ":2: condition always false\n  - if whole == 0:\n  + if (False):\n" in blocks
    assert ":8: operator swapped (no test runs it)\n  - return a + 1\n  + return (a - 1)\n" in blocks
    assert not any("part * whole" in block for block in blocks)
    # 4 of the condition, 2 and 2 of the returns, 3 in `never`; killed: always true, !=, and the quotient's
    total = (
        ": 11 made, 4 killed by a test, 0 by the time limit; 7 lived (63.6 %), 5 on lines that no test runs\n"
    )
    assert blocks[-1] == total


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_sample_is_the_same_each_time_and_lines_can_be_chosen(repository: Path) -> None:
    both = mutate(repository, "alignloop/__init__.py", "--sample", "5", "--seed", "3").stdout
    one, other = (mutate(repository, "--sample", "5", "--seed", "3").stdout for _ in range(2))
    assert one == other == both  # the other file has nothing to change
    assert ": 5 made" in one
    quotient = mutate(repository, "--lines", "4")
    assert quotient.returncode == 0
    assert ": 2 made, 2 killed" in quotient.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_endless_mutants_are_stopped_and_failing_tests_refused(repository: Path) -> None:
    thing, tests = repository / "alignloop/toy/thing.py", repository / "tests/toy/test_thing.py"
    thing.write_text(
        "def share(part, whole):\n    while part > 3:\n        part -= 1\n    return part / whole\n"
    )
    tests.write_text(TESTS.replace("share(3", "share(4"))
    done = mutate(repository, "--lines", "3", "--timeout", "2")  # without the subtraction it never ends
    assert (
        ", 1 killed by a test, 2 by the time limit" in done.stdout or ", 2 by the time limit" in done.stdout
    )
    tests.write_text(TESTS.replace("0.5", "0.6"))
    failed = mutate(repository)
    assert failed.returncode == 1
    assert "the tests fail without a change" in failed.stderr


def test_own_tests_run_first_and_quick_ones_before_slow_ones() -> None:
    place = load("mutate")._order
    ran = {"seconds": {"tests/rl/test_kl_long.py::a": 2.0, "tests/rl/test_kl.py::b": 1.0}}
    ran["seconds"]["tests/rl/test_buffer.py::c"] = 0.5
    names = [*ran["seconds"], "tests/rl/test_new.py::d"]
    ordered = sorted(names, key=lambda name: place(ran, name, Path("alignloop/rl/kl.py")))
    assert [name[-1] for name in ordered] == ["b", "a", "d", "c"]


def test_results_of_pytest_are_read() -> None:
    processors = load("processors")
    output = (
        "..F\nFAILED tests/rl/test_kl.py::test_a - assert 1 == 2\n1 failed, 20 passed, 3 skipped in 9.41s\n"
    )
    result = processors.read(output, 1, 9.5)
    assert (result.passed, result.failed, result.skipped, result.crashed) == (20, 1, 3, 0)
    assert result.names == ("FAILED tests/rl/test_kl.py::test_a - assert 1 == 2",)
    assert not result.fine
    assert processors.read("20 passed in 63.00s (0:01:03)\n", 0, 63.0).fine
    error = processors.read("ERROR tests/rl/test_kl.py\n1 passed, 2 errors in 1.00s\n", 1, 1.0)
    assert (error.passed, error.failed, error.fine) == (1, 2, False)
    assert not processors.read("Fatal Python error: Illegal instruction\n", -4, 1.0).fine
    assert not processors.read("no tests ran in 0.01s\n", 5, 1.0).fine


def test_settings_ask_for_what_the_libraries_know() -> None:
    settings = load("processors").SETTINGS
    assert {setting.aten for setting in settings.values()} == {"default", "avx2", "avx512"}
    assert {setting.threads for setting in settings.values()} == {1, 2}
    assert settings["sse-2"].environment == {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
