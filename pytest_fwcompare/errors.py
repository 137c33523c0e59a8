"""Every error this package raises on purpose.

A message says where, what was expected, what came and what to do. Anything else that escapes is a
bug of this package, never the user's.
"""

from __future__ import annotations


class FwcompareError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(FwcompareError, ValueError):
    """The caller asked for something that cannot be done: a wrong name, shape, key or value."""


class NetworkError(UsageError):
    """A network description does not fit together. Names the layer, what it got and wanted."""


class FrameworkUnavailable(UsageError):
    """A framework, device or dtype was asked for by name and cannot be used here."""


class MappingError(FwcompareError):
    """The parameters of the two sides cannot be paired, or not without a guess that matters."""


class ModelError(FwcompareError):
    """A model under comparison failed: it raised, returned no tensor, or lacks a gradient.

    Args:
        role: "reference" or "port".
        stage: "import", "build", "copy", "forward", "backward", "shadow", "record" or "memory".
        message: what happened, in the framework's words where there are any.
    """

    def __init__(self, role: str, stage: str, message: str) -> None:
        super().__init__(f"{role}, {stage}: {message}")
        self.role = role
        self.stage = stage
        self.text = message


class OutOfMemory(ModelError):
    """A side needs more memory than its device has left; the message names the device."""

    def __init__(self, role: str, message: str) -> None:
        super().__init__(role, "memory", message)


class WorkerDied(ModelError):
    """The worker of a side gave no answer: killed, hung, its pipe closed, or nonsense sent."""

    def of(self, role: str) -> WorkerDied:
        """The same, said of a side: whoever makes a model does not know whose it will be."""
        return WorkerDied(role, self.stage, self.text)
