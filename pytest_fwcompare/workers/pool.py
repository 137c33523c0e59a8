"""The workers of this process: started when first needed, used again, ended with the session."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.workers.specs import KERAS_BACKENDS, Spec, environment_of

if TYPE_CHECKING:
    from pytest_fwcompare.workers.process import Worker

TIMEOUT_S = 300.0
LEAST_WORKERS = 2
"""A comparison may need one for each side."""


SCOUT = "models"
"""Name of the worker that finds out of which framework a factory's model is."""

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        isolate: "none", "crash" or "framework".
        timeout: seconds a request.
        specs: how workers are started, by name; others are started like this process.
        sharers: how many processes like this one share the machine (pytest-xdist).
    """

    isolate: str = "none"
    timeout: float = TIMEOUT_S
    specs: Mapping[str, Spec] = field(default_factory=dict)
    sharers: int = 1


class Pool:
    """Workers by name, each started once as long as it lives.

    Attributes:
        started: how often each was started; more than once only after it died.
        frameworks: of factories that were asked, by module and name.
        deaths: whether a worker died of a model that was tried in it.
        folders: temporary ones, removed at the end.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started: Counter[str] = Counter()
        self.frameworks: dict[tuple[str, str], str] = {}
        self.deaths: dict[Hashable, bool] = {}
        self.folders: list[Path] = []
        self._workers: dict[Key, Worker] = {}

    def worker(self, name: str, environment: Mapping[str, str] | None = None) -> Worker:
        """The running worker of that name, started if need be.

        Args:
            name: "torch", "keras@jax", "torch@old".
            environment: variables beside those that follow from the name; a worker is shared by
                those who ask for the same.

        Raises:
            UsageError: nobody said what the tag means.
            FrameworkUnavailable: it cannot be started.
        """
        key = _key(name, environment)
        found = self._workers.get(key)
        if found is not None and found.alive:
            return found
        spec = self.spec(name)
        self._make_room()
        from pytest_fwcompare.workers.process import Task, Worker

        if found is not None:
            found.close()
        made = Worker(name, spec, dict(key[1]), self.settings.timeout)
        self.started[name] += 1
        self._workers[key] = made
        if spec.own_process:
            made.request("paths", Task("worker", "import"), paths=project_paths())
        return made

    def is_running(self, name: str, environment: Mapping[str, str] | None = None) -> bool:
        """Whether `worker` would give one that runs already."""
        found = self._workers.get(_key(name, environment))
        return found is not None and found.alive

    def name_scout(self, framework: str) -> bool:
        """Make the scout the worker of a framework; False if that has one, or must be another."""
        target = _key(framework, None)
        taken = self._workers.get(target)
        if framework in self.settings.specs or (taken is not None and taken.alive):
            return False
        scout = self._workers.pop(_key(SCOUT, None))
        scout.name = framework
        self._workers[target] = scout
        self.started[framework] += 1
        return True

    def spec(self, name: str) -> Spec:
        """How the worker of that name is started.

        Raises:
            UsageError: its tag means nothing.
        """
        specs = self.settings.specs
        if name in specs:
            return specs[name]
        framework, _, tag = name.partition("@")
        if tag and not (framework == "keras" and tag in KERAS_BACKENDS):
            known = [*specs, *(f"keras@{backend}" for backend in KERAS_BACKENDS)]
            raise UsageError(
                f"no worker {name!r}: say where it runs with --fwcompare-worker {name}=PYTHON; "
                f"known are {', '.join(known)}"
            )
        return specs.get(framework, Spec())

    @property
    def most(self) -> int:
        """How many workers may run at once: one a core that is this process' to use."""
        return max(LEAST_WORKERS, cores() // max(1, self.settings.sharers))

    def _make_room(self) -> None:
        """End the worker that was idle longest, if there are as many as there may be."""
        running = {key: worker for key, worker in self._workers.items() if worker.alive}
        idle = sorted(
            (key for key, worker in running.items() if not worker.sides),
            key=lambda key: running[key].used,
        )
        for key in idle[: len(running) + 1 - self.most]:
            self._workers.pop(key).close()

    @property
    def workers(self) -> list[Worker]:
        """Those that run."""
        return [worker for worker in self._workers.values() if worker.alive]

    def close(self) -> None:
        """End all of them."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        self.folders.clear()


def _key(name: str, environment: Mapping[str, str] | None) -> Key:
    """What tells workers apart: name and variables."""
    variables = {**environment_of(name), **(environment or {})}
    return name, tuple(sorted(variables.items()))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def project_paths() -> list[str]:
    """Folders of `sys.path` that are the project's, not an installation's.

    A worker may run another Python, whose own packages must not be mixed with those of this one.
    """
    installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    folders = [Path(entry or ".").resolve() for entry in sys.path]
    return [
        str(folder)
        for folder in dict.fromkeys(folders)
        if folder.is_dir() and not any(folder.is_relative_to(prefix) for prefix in installed)
    ]


_pool = Pool(Settings())


def current() -> Pool:
    """The pool of this process."""
    return _pool


def configure(settings: Settings) -> Pool:
    """Begin with a new pool; gives the one that was there, to be put back with `put_back`."""
    global _pool
    before, _pool = _pool, Pool(settings)
    return before


def put_back(pool: Pool) -> None:
    """End the workers of the present pool and go on with an earlier one."""
    global _pool
    _pool.close()
    _pool = pool


@atexit.register
def _close() -> None:
    _pool.close()
