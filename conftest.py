"""For the whole checkout: the plugin's own fixtures, also where it is not installed."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

# Read once, when a framework is imported. With oneDNN, TensorFlow 2.21 corrupts memory in the
# filter gradient of strided 1x1 convolutions; Keras keeps the backend that it finds first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# A machine with a GPU may have no TensorFlow: then Keras is on what is there.
BELOW_KERAS = [name for name in ("tensorflow", "torch", "jax") if find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", next(iter(BELOW_KERAS), "tensorflow"))

pytest_plugins = ["pytester"]
try:
    distribution("pytest-fwcompare")
except PackageNotFoundError:  # a machine where nothing can be installed
    pytest_plugins.append("pytest_fwcompare.plugin")
