"""Asks Keras on its other backends, each in its worker: a backend is fixed at import.

The workers are those that sides run in, so each is started once in a session, and only when a
comparison failed in a way that leaves the question open.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_fwcompare.backends.keras.examined import Job, Ran
from pytest_fwcompare.errors import FwcompareError

if TYPE_CHECKING:
    from pytest_fwcompare.workers.process import Worker

BACKENDS = ("tensorflow", "torch", "jax", "numpy")
"""Those that Keras has."""


def missing(name: str) -> str | None:
    """Why Keras cannot run on a backend here; None if it can."""
    from pytest_fwcompare.backends.registry import backend

    return backend(f"keras@{name}").unavailable()


def ask(names: Sequence[str], jobs: Sequence[Job]) -> dict[str, list[Ran]]:
    """Run layers on other backends, as many at once as there may be workers.

    Args:
        names: of backends.
        jobs: what to run; those that cannot be made elsewhere are not sent.

    Returns:
        For each backend what each job gave, or why it gave nothing.
    """
    from pytest_fwcompare.workers import pool

    sent = [job for job in jobs if not job.reason]
    found: dict[str, list[Ran]] = {}
    step = pool.current().most
    chosen = list(names) if sent else []
    for start in range(0, len(chosen), step):
        found |= _asked(chosen[start : start + step], sent)
    made = {}
    for name in names:
        answers = iter(found.get(name, []))
        made[name] = [Ran(reason=job.reason) if job.reason else next(answers) for job in jobs]
    return made


def _asked(names: Sequence[str], jobs: Sequence[Job]) -> dict[str, list[Ran]]:
    """Workers are started one after the other, by this thread, and asked all at once."""
    found: dict[str, list[Ran]] = {}
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            if (reason := missing(name)) is not None:
                found[name] = [Ran(reason=reason)] * len(jobs)
                continue
            try:
                workers[name] = _started(name)
            except FwcompareError as error:
                found[name] = [Ran(reason=str(error))] * len(jobs)
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            waiting = {
                name: threads.submit(_answers, name, worker, jobs)
                for name, worker in workers.items()
            }
            try:
                found |= {name: one.result() for name, one in waiting.items()}
            except BaseException:  # interrupted: nobody waits for what is still asked
                for worker in workers.values():
                    worker.kill()
                raise
    finally:
        for worker in workers.values():
            worker.sides -= 1
    return found


def _started(name: str) -> Worker:
    """A worker that is not ended as idle to make room for the next one."""
    from pytest_fwcompare.workers import pool

    worker = pool.current().worker(f"keras@{name}")
    worker.sides += 1
    return worker


def _answers(name: str, worker: Worker, jobs: Sequence[Job]) -> list[Ran]:
    from pytest_fwcompare.workers.process import Task

    try:
        task = Task(f"keras on {name}", "forward")
        made: list[Ran] = worker.request("layers", task, patient=True, jobs=list(jobs))
    except FwcompareError as error:
        return [Ran(reason=f"its worker failed: {error}")] * len(jobs)
    return made
