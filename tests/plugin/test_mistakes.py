"""Wrong input to the plugin: each gives one clear error, and no traceback of ours."""

from __future__ import annotations

import pytest

from pytest_fwcompare.devices import FORMS

NETWORK = "def test_it(fwcompare_network): pass"
PORT = "def test_it(fwcompare_port): fwcompare_port('reference', {!r}, inputs={{}})"
MARKED = "import pytest\n@pytest.mark.fwcompare({})\ndef test_it(fwcompare_port): pass"

OPTIONS = {
    "unknown framework": (
        "--fwcompare-frameworks=numpy,pytorch",
        "--fwcompare-frameworks: no framework 'pytorch'; did you mean 'torch'? The *",
    ),
    "no framework": (
        "--fwcompare-frameworks=,",
        "--fwcompare-frameworks: expected at least one name, got ','",
    ),
    "unknown device": (
        "--fwcompare-devices=cpu,gpu",
        f"--fwcompare-devices: unknown device 'gpu'; known are {FORMS}",
    ),
    "device without a number": (
        "--fwcompare-devices=cuda:",
        f"--fwcompare-devices: unknown device 'cuda:'; known are {FORMS}",
    ),
    "unknown dtype": (
        "--fwcompare-dtypes=double",
        "--fwcompare-dtypes: unknown dtype 'double'; known are float32, float64, *",
    ),
    "unknown mode": (
        "--fwcompare-modes=jit",
        "--fwcompare-modes: unknown mode 'jit'; known are eager, graph, compiled",
    ),
    "no examples": (
        "--fwcompare-examples=0",
        "--fwcompare-examples: expected a whole number of at least 1, got *0*",
    ),
    "examples in words": (
        "--fwcompare-examples=many",
        "--fwcompare-examples: expected a whole number of at least 1, got 'many'",
    ),
    "unknown verdict": (
        "--fwcompare-fail-on=wrong",
        "--fwcompare-fail-on: character 1: unknown verdict or figure 'wrong'; there are *",
    ),
    "a verdict that cannot fail": (
        "--fwcompare-fail-on=equivalent",
        "--fwcompare-fail-on: character 1: unknown verdict or figure 'equivalent'; there are *",
    ),
    "drift from nothing": (
        "--fwcompare-fail-on=drift",
        "--fwcompare-fail-on=drift: drift is held against a baseline; name it with "
        "--fwcompare-baseline=PATH",
    ),
    "a baseline that is a folder": (
        "--fwcompare-baseline=folder.json",
        "--fwcompare-baseline=folder.json: expected a file, this is a folder",
    ),
    "a baseline of another kind": (
        "--fwcompare-baseline=drift.yaml",
        "--fwcompare-baseline=drift.yaml: expected the path of a .json file",
    ),
    "no baseline to update": (
        "--fwcompare-update-baseline",
        "--fwcompare-update-baseline: which one? Name it with --fwcompare-baseline=PATH",
    ),
    "no baseline to prune": (
        "--fwcompare-prune-baseline",
        "--fwcompare-prune-baseline: which one? Name it with --fwcompare-baseline=PATH",
    ),
    "report of an unknown kind": (
        "--fwcompare-report=out.pdf",
        "--fwcompare-report=out.pdf: unsupported suffix '.pdf'; reports are written as .json, "
        ".html, .md",
    ),
    "report without a suffix": (
        "--fwcompare-report=out",
        "--fwcompare-report=out: unsupported suffix ''; reports are written as .json, .html, .md",
    ),
    "report that is a folder": (
        "--fwcompare-report=folder.json",
        "--fwcompare-report=folder.json: expected a file, this is a folder",
    ),
}

MARKERS = {
    "unknown key": (
        "framework='torch'",
        "@pytest.mark.fwcompare: unknown key 'framework'; the keys are frameworks, devices, "
        "dtypes, modes, examples; did you mean 'frameworks'?",
    ),
    "key like nothing": (
        "tolerance=1e-5",
        "@pytest.mark.fwcompare: unknown key 'tolerance'; the keys are frameworks, devices, "
        "dtypes, modes, examples",
    ),
    "positional": (
        "'torch'",
        "@pytest.mark.fwcompare takes keywords only (frameworks, devices, dtypes, modes, "
        "examples), got 'torch'",
    ),
    "unknown device": (
        "devices='gpu'",
        f"@pytest.mark.fwcompare(devices=...): unknown device 'gpu'; known are {FORMS}",
    ),
    "unknown dtype": (
        "dtypes=['float8']",
        "@pytest.mark.fwcompare(dtypes=...): unknown dtype 'float8'; known are float32, *",
    ),
    "unknown mode": (
        "modes=('lazy',)",
        "@pytest.mark.fwcompare(modes=...): unknown mode 'lazy'; known are eager, *",
    ),
    "not names": (
        "frameworks=[1]",
        "@pytest.mark.fwcompare(frameworks=...): expected a name or a list of names, got [[]1[]]",
    ),
    "empty": (
        "frameworks=[]",
        "@pytest.mark.fwcompare(frameworks=...): expected at least one name, got [[][]]",
    ),
    "examples that are true": (
        "examples=True",
        "@pytest.mark.fwcompare(examples=...): expected a whole number of at least 1, got True",
    ),
    "half an example": (
        "examples=2.5",
        "@pytest.mark.fwcompare(examples=...): expected a whole number of at least 1, got 2.5",
    ),
}

MISSING = {"frameworks": "absent", "why": "absent is not installed (pip install absent-framework)"}
ABSENT = '''
import sys
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Backend


class Absent(Backend):
    """A framework that nobody has."""

    name, distribution, imports = "absent", "absent-framework", ("absent",)
    def version(self): raise AssertionError
    def owns(self, model): return False
    def adopt(self, model, **keywords): raise AssertionError


class Present(Absent):
    """One that is there, knows one device, and has no graph mode."""

    name, distribution, imports = "present", "pytest", ("pytest",)
    modes = ("eager",)


registry.SHIPPED.update(absent="conftest:Absent", present="conftest:Present")
registry.import_strings.cache_clear()
registry.backend.cache_clear()
sys.modules.setdefault("conftest", sys.modules[__name__])


def pytest_unconfigure():
    for name in ("absent", "present"):
        registry.SHIPPED.pop(name, None)
    registry.import_strings.cache_clear()
    registry.backend.cache_clear()
'''


def clean(result: pytest.RunResult) -> None:
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    assert "plugin.py:" not in text


@pytest.mark.parametrize(("option", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options(pytester: pytest.Pytester, option: str, message: str) -> None:
    pytester.mkdir("folder.json")
    result = pytester.runpytest("--fwcompare", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: fwcompare: {message}"])
    clean(result)


def test_ini_values_are_named_as_such(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nfwcompare_devices = gpu\n")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: fwcompare: ini fwcompare_devices: unknown device 'gpu'*"])


@pytest.mark.parametrize(("arguments", "message"), MARKERS.values(), ids=MARKERS)
@pytest.mark.parametrize("option", [[], ["--fwcompare"]], ids=["off", "on"])
def test_markers(
    pytester: pytest.Pytester, arguments: str, message: str, option: list[str]
) -> None:
    pytester.makepyfile(MARKED.format(arguments))
    result = pytester.runpytest(*option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: fwcompare: test_markers.py::test_it: {message}"])
    clean(result)


def test_all_wrong_markers_are_told_at_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.fwcompare(framework="torch")
        def test_one(fwcompare_port): pass

        @pytest.mark.fwcompare(device="cpu")
        def test_other(fwcompare_port): pass
        """
    )
    result = pytester.runpytest()
    result.stderr.fnmatch_lines(["ERROR: *::test_one: *'framework'*", "*::test_other: *'device'*"])


def test_a_wrong_marker_under_xdist_is_a_failed_collection(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MARKED.format("framework='torch'"))
    result = pytester.runpytest("-n", "2")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_it: @pytest.mark.fwcompare: unknown key 'framework'; *"])
    clean(result)


def test_a_framework_asked_for_by_option_and_missing_ends_the_run(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(ABSENT)
    pytester.makepyfile(NETWORK)
    result = pytester.runpytest("--fwcompare", "--fwcompare-frameworks=absent")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: fwcompare: --fwcompare-frameworks: framework 'absent' was asked for, but "
            "absent is not installed (pip install absent-framework)"
        ]
    )


def test_a_framework_asked_for_by_a_marker_and_missing_fails_its_test(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(ABSENT)
    pytester.makepyfile("import pytest\n@pytest.mark.fwcompare(frameworks='absent')\n" + NETWORK)
    result = pytester.runpytest("--fwcompare")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["framework 'absent': absent is not installed (pip install absent-framework)"]
    )
    clean(result)


def test_a_default_framework_that_is_missing_skips_with_the_reason(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(ABSENT)
    pytester.makepyfile(NETWORK)
    result = pytester.runpytest("--fwcompare", "-rs", "-k", "absent or present")
    result.assert_outcomes(passed=1, skipped=1, deselected=4)
    result.stdout.fnmatch_lines(
        [
            "fwcompare: numpy *, absent (not installed), present *",
            "SKIPPED*framework 'absent': absent is not installed (pip install absent-framework)",
        ]
    )


@pytest.mark.parametrize(
    ("options", "outcomes", "message"),
    [
        (
            ["--fwcompare-modes=graph"],
            {"skipped": 1},
            "*mode: present has no mode 'graph', only eager",
        ),
        (
            ["--fwcompare-modes=graph", "--fwcompare-frameworks=present"],
            {"errors": 1},
            "mode: present has no mode 'graph', only eager",
        ),
        (
            ["--fwcompare-devices=cuda"],
            {"errors": 1},
            "device 'cuda': present finds only cpu here",
        ),
        (
            ["--fwcompare-dtypes=bfloat16"],
            {"skipped": 1},
            "*dtype: present has no dtype 'bfloat16', only float32, float64",
        ),
        (
            ["--fwcompare-dtypes=bfloat16", "--fwcompare-frameworks=present"],
            {"errors": 1},
            "dtype: present has no dtype 'bfloat16', only float32, float64",
        ),
        (
            ["--fwcompare-devices=cuda:3"],
            {"errors": 1},
            "device 'cuda:3': present finds only cpu here",
        ),
    ],
    ids=[
        "a mode it lacks",
        "a mode it lacks, named",
        "no such device",
        "a dtype it lacks",
        "a dtype it lacks, named",
        "no third device",
    ],
)
def test_axes_that_a_framework_lacks(
    pytester: pytest.Pytester, options: list[str], outcomes: dict[str, int], message: str
) -> None:
    pytester.makeconftest(ABSENT)
    pytester.makepyfile(NETWORK)
    result = pytester.runpytest("--fwcompare", "-rs", "-k", "present", *options)
    found = result.parseoutcomes()
    found.pop("deselected", None)
    assert {key.rstrip("s") for key in found} == {key.rstrip("s") for key in outcomes}
    result.stdout.fnmatch_lines([message])
    clean(result)


def test_a_marker_and_the_options_with_nothing_in_common_skip(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(MARKED.format("dtypes='float64'"))
    result = pytester.runpytest("--fwcompare", "-rs", "--fwcompare-dtypes=float32")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*no dtypes left: the marker has float64, --fwcompare-dtypes has float32"]
    )


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        ("mapping", "*MappingError: fc.weight fits dense/kernel and dense_1/kernel alike"),
        ("model", "*ModelError: port, forward: ValueError: bad"),
        ("semantic", "*AssertionError: semantic: the keras port does not compute *"),
    ],
)
def test_what_compare_raises_points_at_the_users_line(
    project: pytest.Pytester, verdict: str, message: str
) -> None:
    project.makepyfile(PORT.format(verdict))
    result = project.runpytest("--fwcompare")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*fwcompare_port('reference', *", f"E {message}"])
    result.stdout.no_fnmatch_line("*fixtures.py:*")
    result.stdout.no_fnmatch_line("*records*comparison.py:*")


def test_a_bug_of_ours_keeps_its_traceback(project: pytest.Pytester) -> None:
    project.makepyfile(PORT.format("bug"))
    result = project.runpytest("--fwcompare")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: a bug of ours", "*conftest.py:*RuntimeError"])


@pytest.mark.parametrize(
    ("fixture", "message"),
    [
        (
            "fwcompare_network",
            "*UsageError: fwcompare_network: expected a network described with "
            "pytest_fwcompare.networks, got dict; fwcompare_port takes models",
        ),
        (
            "fwcompare_build",
            "*UsageError: fwcompare_build: expected a network described with "
            "pytest_fwcompare.networks, got dict",
        ),
    ],
)
def test_something_that_is_no_network(
    pytester: pytest.Pytester, fixture: str, message: str
) -> None:
    pytester.makepyfile(f"def test_it({fixture}): {fixture}({{}})")
    result = pytester.runpytest("--fwcompare", "--fwcompare-frameworks=numpy")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E {message}"])
