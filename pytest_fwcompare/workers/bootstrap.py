"""The first code in a worker; its source is sent there, so it must run in any Python 3.

It keeps the process apart from the channel (what C code prints goes to a log), makes sure that it
ends with its parent, lets this package be found, and says what the worker is, or why it cannot be
one.
"""

import os
import sys
from typing import Any

LEAST_PYTHON = (3, 11)
WATCHED_EVERY_S = 1.0
CUT_OFF = 71  # exit status of a worker that hears its parent no more


def begin(channel: Any) -> None:
    """Set the worker up, say hello or why not, and serve."""
    config = channel.receive()
    if config["own_process"]:
        redirect_output(config["log"])
        end_with_parent(config["main_thread"])
    os.environ.update(config["environment"])
    reason = refusal(config)
    if reason:
        channel.send({"refused": reason})
        return
    from pytest_fwcompare.workers import server

    server.serve(channel, config, CUT_OFF)


def refusal(config: Any) -> str:
    """Why this interpreter cannot be a worker; empty if it can."""
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return f"Python {least} or newer is needed there, this is Python {python}"
    find_package(config["package"])
    try:
        import numpy  # noqa: F401
    except Exception as error:
        return f"NumPy cannot be imported there ({type(error).__name__}: {error}): install it"
    wanted = config["version"]
    install = f"install pytest-fwcompare=={wanted} there"
    try:
        import pytest_fwcompare
        from pytest_fwcompare.workers import wire
    except ImportError as error:
        return f"pytest_fwcompare cannot be imported there ({error}): {install}"
    found = pytest_fwcompare.__version__
    if found != wanted or config["protocol"] != wire.PROTOCOL:
        return (
            f"expected pytest-fwcompare {wanted} (protocol {config['protocol']}), the worker has "
            f"{found} (protocol {wire.PROTOCOL}): {install}"
        )
    return ""


def find_package(folder: str) -> None:
    """Take this package, and nothing beside it, from the parent's folder if it is there.

    The folder's neighbours are the parent's packages, which may be of another Python.
    """
    start = os.path.join(folder, "__init__.py")  # noqa: PTH118 (old Pythons run this)
    if not os.path.isfile(start):  # noqa: PTH113
        return
    from importlib.util import spec_from_file_location

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name != "pytest_fwcompare":
                return None
            return spec_from_file_location(name, start, submodule_search_locations=[folder])

    sys.meta_path.insert(0, Finder())


def redirect_output(log: str) -> None:
    """Everything printed, by C code too, goes to the log, and so does the trace of a crash.

    execnet has taken the pipes off the descriptors 0 and 1 before this runs.
    """
    import faulthandler
    import signal

    # Ctrl-C is the parent's to handle: it ends its workers in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        number = os.open(log, os.O_WRONLY | os.O_APPEND)
    except OSError:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)
    faulthandler.enable(2, all_threads=False)


def end_with_parent(main_thread: bool) -> None:
    """No worker outlives its parent, however the parent ends.

    Linux kills the worker when the thread that started it ends, which is asked for only if that
    is the parent's main thread. Elsewhere, and for good measure, a thread looks.
    """
    import threading
    import time

    parent = os.getppid()
    if main_thread and sys.platform == "linux":
        import ctypes
        import signal

        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED_EVERY_S)
        os._exit(CUT_OFF)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__channelexec__":
    begin(channel)  # type: ignore[name-defined]  # noqa: F821 (execnet's)
