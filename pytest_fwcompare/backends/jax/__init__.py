"""JAX: flax.nnx, flax.linen, equinox and plain (function, params) pairs. Imports no framework."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_fwcompare.backends.base import Backend, Built, Side
from pytest_fwcompare.devices import processors
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.formats import DTYPES

if TYPE_CHECKING:
    from pytest_fwcompare.networks import Network

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
"""JAX takes most of a GPU's memory when it starts, unless this stands before its import."""

if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
    # XLA asks for nothing else (xla/pjrt, DefaultThreadPoolSize): as many threads as the others.
    os.environ.setdefault("NPROC", os.environ["OMP_NUM_THREADS"])

KINDS = {
    "flax.nnx": "nnx",
    "flax.linen": "linen",
    "equinox": "equinox",
    "pytest_fwcompare.backends.jax": "network",
}
"""By the start of a module name in a class's ancestry: the way its parameters are held."""


def kind_of(model: object) -> str | None:
    """How a model holds its parameters: "nnx", "linen", "equinox", "network", "pair" or None."""
    own = _kind_of_class(type(model))
    if own in ("nnx", "equinox", "network"):
        return own
    if not isinstance(model, tuple) or len(model) != 2:
        return None
    first, second = model
    if _kind_of_class(type(first)) == "linen":
        return "linen" if hasattr(second, "keys") else None
    if callable(first) and not isinstance(first, type) and _holds_arrays(second):
        return "pair"
    return None


def _kind_of_class(cls: type) -> str | None:
    for base in cls.__mro__:
        # Only what is a module: flax and equinox have many other classes.
        if base.__name__ not in ("Module", "JaxNetwork"):
            continue
        for start, kind in KINDS.items():
            if base.__module__ == start or base.__module__.startswith(start + "."):
                return kind
    return None


def _holds_arrays(tree: object) -> bool:
    """True for containers whose leaves are JAX or NumPy arrays, at least one of them."""
    found = False
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if hasattr(item, "keys") and hasattr(item, "values"):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif hasattr(item, "__dataclass_fields__") and not isinstance(item, type):
            waiting.extend(getattr(item, name) for name in item.__dataclass_fields__)
        elif item is None or isinstance(item, (int, float, str)):
            continue
        elif _is_array(type(item)):
            found = True
        else:
            return False
    return found


ARRAYS = {
    *(("numpy", "ndarray"), ("jaxlib", "ArrayImpl"), ("jax", "Array"), ("jax", "Tracer")),
    ("jax", "PRNGKeyArray"),
}
"""Package and class name of what counts as an array."""


def _is_array(cls: type) -> bool:
    return any((b.__module__.partition(".")[0], b.__name__) in ARRAYS for b in cls.__mro__)


class JaxBackend(Backend):
    """Adopts pure functions of a tree of parameters; builds with jax.lax alone."""

    name = "jax"
    distribution = "jax"
    imports = ("jax",)
    modes = ("eager", "graph", "compiled")
    dtypes = DTYPES

    def version(self) -> str:
        import jax

        return str(jax.__version__)

    def device_names(self) -> list[str]:
        from pytest_fwcompare.backends.jax.devices import names

        return names()

    def without_gpu(self) -> str:
        """CUDA comes to JAX as a plugin of its own."""
        from importlib.metadata import entry_points

        if any("cuda" in found.name for found in entry_points(group="jax_plugins")):
            return "its CUDA plugin is installed, but shows no GPU (JAX_PLATFORMS, or the driver)"
        return "its CUDA plugin is not installed: pip install 'jax[cuda]'"

    def owns(self, model: object) -> bool:
        return kind_of(model) is not None

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        from pytest_fwcompare.backends.jax.adopt import JaxSide
        from pytest_fwcompare.backends.jax.devices import device_of
        from pytest_fwcompare.backends.jax.twins import twin_of

        kind = kind_of(model)
        if kind is None:
            raise UsageError(
                f"jax: expected a flax or equinox module or a (function, params) pair, got "
                f"{type(model).__name__}"
            )
        if dtype not in self.dtypes:
            raise UsageError(f"jax: dtype {dtype!r} is not one of {', '.join(self.dtypes)}")
        if mode not in self.modes:
            raise UsageError(f"jax: mode {mode!r} is not one of {', '.join(self.modes)}")
        return JaxSide(twin_of(kind, model, own), dtype=dtype, device=device_of(device), mode=mode)

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        from pytest_fwcompare.backends.jax.build import build
        from pytest_fwcompare.backends.jax.devices import device_of

        return build(network, dtype, device_of(device))

    def thread_count(self) -> int | None:
        """Of XLA's pool, which is as large as the processor unless somebody says so."""
        if "xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", ""):
            return 1
        asked = os.environ.get("NPROC", "")
        return int(asked) if asked.isdecimal() else processors()

    def device_peak(self, device: str, call: Callable[[], None]) -> int | None:
        """By XLA's allocator, whose peak cannot be reset: None if this call did not raise it."""
        if not device.startswith("cuda"):
            return None
        from pytest_fwcompare.backends.jax.devices import device_of

        held = device_of(device)
        before = (held.memory_stats() or {}).get("peak_bytes_in_use")
        call()
        after = (held.memory_stats() or {}).get("peak_bytes_in_use")
        return None if before is None or after is None or after <= before else int(after)

    def environment(self) -> dict[str, Any]:
        import importlib.metadata
        import sys

        import jax

        facts: dict[str, Any] = {
            "version": self.version(),
            "x64": bool(jax.config.jax_enable_x64),
            "platform": jax.default_backend(),
            "devices": [str(device) for device in jax.devices()],
            "device_kind": str(jax.devices()[0].device_kind),
            "default_matmul_precision": str(jax.config.jax_default_matmul_precision),
            "preallocate": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", ""),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        }
        for name in ("jaxlib", "flax", "equinox"):
            if name in sys.modules:
                facts[name] = importlib.metadata.version(name)
        return facts
