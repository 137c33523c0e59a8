"""The baseline: a JSON file of figures, one entry a case, that people read in diffs.

`baseline.schema.json` says what is in it. Figures have three digits, so that what is noise does
not show; fingerprints have twelve, so that what moved does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pytest_fwcompare import __version__
from pytest_fwcompare.encoding import encode
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.gate.schema import check, load
from pytest_fwcompare.records import Digest, Fingerprint, Verdict

FORMAT = 1
"""Version of the file; a reader refuses a newer one."""

Environment = Mapping[str, Mapping[str, Any]]
"""Facts by framework."""


class BaselineError(UsageError):
    """A baseline that cannot be used. It is never overwritten."""


@dataclass(frozen=True)
class Sensitivity:
    """What the controls of a case could notice.

    Attributes:
        noticed, tried: numbers of disturbances.
        uncovered: number of parameters whose disturbance nothing noticed.
        least: smallest ratio among the noticed ones.
    """

    noticed: int
    tried: int
    uncovered: int
    least: float


@dataclass(frozen=True)
class Entry:
    """The figures of one case.

    Attributes:
        axes: the part of the case's id that names them.
        noise: of "reference" and "port".
        ulp: by tensor.
        environment: key among the environments of the file.
    """

    axes: str
    reference: str
    port: str
    device: str
    dtype: str
    mode: str
    examples: int
    verdict: Verdict
    gap: float
    noise: Mapping[str, float]
    ulp: Mapping[str, float]
    sensitivity: Sensitivity | None = None
    environment: str = ""
    digest: Digest | None = None


@dataclass(frozen=True)
class Baseline:
    """All entries of a file.

    Attributes:
        cases: by the test's id, with " #2" behind it for its second comparison.
        environments: by their key.
    """

    cases: Mapping[str, Entry] = field(default_factory=dict)
    environments: Mapping[str, Environment] = field(default_factory=dict)

    def environment(self, case: str) -> Environment:
        """The facts that a case was recorded with."""
        return self.environments.get(self.cases[case].environment, {})


def key_of(environment: Environment) -> str:
    """An environment's key in the file: equal facts are written once."""
    text = json.dumps(environment, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def dumps(baseline: Baseline) -> str:
    """The text of the file: cases and facts sorted, a figure a line."""
    used = {entry.environment for entry in baseline.cases.values()}
    data = {
        "format": FORMAT,
        "written_by": f"pytest-fwcompare {__version__}",
        "environments": {
            key: {name: dict(sorted(facts.items())) for name, facts in sorted(found.items())}
            for key, found in sorted(baseline.environments.items())
            if key in used
        },
        "cases": {case: _plain(entry) for case, entry in sorted(baseline.cases.items())},
    }
    return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def loads(text: str, where: str) -> Baseline:
    """The baseline that `dumps` wrote.

    Args:
        text: content of the file.
        where: how messages call the file.

    Raises:
        BaselineError: it is none, it is damaged, or a newer version wrote it.
    """
    data = _parsed(text, where)
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise BaselineError(
            f"{where}: expected a baseline, an object with a 'format' number; this is none"
        )
    if data["format"] > FORMAT:
        raise BaselineError(
            f"{where}: format {data['format']} was written by a newer version "
            f"({data.get('written_by', 'unknown')}); this one, {__version__}, reads up to format "
            f"{FORMAT}. Upgrade pytest-fwcompare"
        )
    try:
        check(data, load("pytest_fwcompare.gate", "baseline.schema.json"), where)
        cases = {case: _entry(plain) for case, plain in data["cases"].items()}
    except (ValueError, OverflowError) as error:
        raise BaselineError(str(error)) from None
    for case, entry in cases.items():
        if entry.environment not in data["environments"]:
            raise BaselineError(
                f"{where}: cases[{case!r}]: no environment {entry.environment!r} in the file"
            )
    return Baseline(cases, data["environments"])


def _parsed(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} is there twice")
        return made

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        conflict = "<<<<<<<" in text and ">>>>>>>" in text
        hint = (
            "git left its conflict markers in it: take both versions and put them together with "
            "python -m pytest_fwcompare merge"
            if conflict
            else "it was cut off or damaged: restore it, or delete it and record it anew"
        )
        raise BaselineError(f"{where}: not JSON ({error}); {hint}") from None


def as_text(entry: Entry) -> str:
    """An entry as the file holds it, in one line; equal entries give equal texts."""
    return json.dumps(_plain(entry), sort_keys=True)


def rounded(value: float) -> float:
    """A figure as the file keeps it: three digits."""
    return float(f"{value:.3g}") + 0.0 if math.isfinite(value) else value  # no negative zero


def _plain(entry: Entry) -> dict[str, Any]:
    made = cast("dict[str, Any]", encode(dataclasses.replace(entry, digest=None)))
    made["ulp"] = dict(sorted(made["ulp"].items()))
    if entry.digest is not None:
        made["digest"] = {
            "inputs": _words(entry.digest.inputs),
            "weights": _words(entry.digest.weights),
            "passes": {name: _words(print_) for name, print_ in entry.digest.passes.items()},
        }
    return made


def _words(fingerprint: Fingerprint) -> str:
    return " ".join(f"{value:.12g}" for value in (fingerprint.norm, *fingerprint.projections))


def _fingerprint(words: str) -> Fingerprint:
    norm, *projections = (float(word) for word in words.split())
    return Fingerprint(norm, tuple(projections))


def _entry(plain: Mapping[str, Any]) -> Entry:
    digest, sensitivity = plain["digest"], plain["sensitivity"]
    if digest is not None:
        digest = Digest(
            _fingerprint(digest["inputs"]),
            _fingerprint(digest["weights"]),
            {name: _fingerprint(words) for name, words in digest["passes"].items()},
        )
    if sensitivity is not None:
        least = float(sensitivity["least"])
        sensitivity = Sensitivity(**{**sensitivity, "least": least})
    figures = {
        "gap": float(plain["gap"]),
        "noise": {role: float(value) for role, value in plain["noise"].items()},
        "ulp": {name: float(value) for name, value in plain["ulp"].items()},
    }
    return Entry(**{**plain, **figures, "digest": digest, "sensitivity": sensitivity})
