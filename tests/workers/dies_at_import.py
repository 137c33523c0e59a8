"""A module that no process survives importing."""

import ctypes
import os

if "FWCOMPARE_TEST_PARENT" not in os.environ:
    print("importing the last module of my life", flush=True)
    ctypes.string_at(0)


def model():
    return None
