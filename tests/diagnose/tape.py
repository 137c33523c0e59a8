"""Records made by small NumPy programs, to set up data flow exactly."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.backends.base import Recorded


class Tape:
    """Collects records; `run` returns the number of the new one."""

    def __init__(self):
        self.records = []

    def input(self, value):
        return self.run("input", np.asarray(value, np.float64))

    def run(self, operation, value, *inputs, path="", constants=(), **attributes):
        """Append an operation on earlier records and constants."""
        gradient = attributes.pop("gradient", None)
        parameters = attributes.pop("parameters", ())
        arguments = (*(self.records[i].value for i in inputs), *constants)
        index = len(self.records)
        self.records.append(
            Recorded(
                index=index,
                path=path,
                operation=operation,
                value=np.asarray(value, np.float64),
                inputs=inputs,
                parameters=tuple(parameters),
                attributes=attributes,
                arguments=arguments if inputs else (),
                gradient=gradient,
            )
        )
        return index

    def value(self, index):
        return self.records[index].value
