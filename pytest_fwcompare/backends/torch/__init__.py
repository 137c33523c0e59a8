"""PyTorch: adoption of any `torch.nn.Module`, its float64 shadow, described networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from pytest_fwcompare.backends.base import Backend, Built, Side
from pytest_fwcompare.devices import is_among
from pytest_fwcompare.errors import FrameworkUnavailable, UsageError
from pytest_fwcompare.formats import DTYPES

if TYPE_CHECKING:
    from pytest_fwcompare.networks import Network

__all__ = ["TorchBackend"]


@final
class TorchBackend(Backend):
    """Knows torch. Importing this module does not import torch."""

    name = "torch"
    distribution = "torch"
    imports = ("torch",)
    modes = ("eager", "graph", "compiled")
    dtypes = DTYPES

    def version(self) -> str:
        import torch

        return str(torch.__version__)

    def device_names(self) -> list[str]:
        import torch

        return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]

    def without_gpu(self) -> str:
        import torch

        if torch.version.cuda is None:
            return f"torch {self.version()} is a build without CUDA"
        return f"torch was built for CUDA {torch.version.cuda}; its driver shows no GPU"

    def owns(self, model: object) -> bool:
        """True for a `torch.nn.Module` that is not a Keras layer on its torch backend."""
        classes = type(model).__mro__
        if any(kind.__module__.partition(".")[0] == "keras" for kind in classes):
            return False
        return any(
            kind.__name__ == "Module" and kind.__module__ == "torch.nn.modules.module"
            for kind in classes
        )

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        from pytest_fwcompare.backends.torch.adopt import TorchSide

        self._check(dtype, device, mode)
        return TorchSide(model, dtype=dtype, device=device, mode=mode, own=own)

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        from pytest_fwcompare.backends.torch.build import build

        self._check(dtype, device, "eager")
        return build(network, dtype=dtype, device=device)

    def environment(self) -> dict[str, Any]:
        import torch

        from pytest_fwcompare.backends.torch.precision import flags

        return {
            "version": self.version(),
            "threads": torch.get_num_threads(),
            **flags(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "flush_denormal": _flushes_subnormals(),
            **_gpu(),
        }

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        import torch

        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        devices = range(torch.cuda.device_count()) if used else ()
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)
            if used:
                torch.cuda.manual_seed_all(seed)
            yield

    def lacking(self, mode: str, device: str) -> str | None:
        if mode != "compiled":
            return None
        from pytest_fwcompare.backends.torch.modes import missing_compiler

        return missing_compiler(device)

    def device_peak(self, device: str, call: Callable[[], None]) -> int | None:
        import torch

        if not device.startswith("cuda"):
            return None
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))

    def release_memory(self) -> None:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def threads(self) -> int | None:
        import torch

        return int(torch.get_num_threads())

    def set_threads(self, count: int) -> None:
        import torch

        torch.set_num_threads(count)

    def _check(self, dtype: str, device: str, mode: str) -> None:
        """Raise what was asked for and cannot be had."""
        if dtype not in self.dtypes:
            raise UsageError(
                f"torch: no working dtype {dtype!r}; its dtypes are {', '.join(self.dtypes)}"
            )
        if mode not in self.modes:
            raise UsageError(f"torch: no mode {mode!r}; its modes are {', '.join(self.modes)}")
        if reason := self.lacking(mode, device):
            raise FrameworkUnavailable(f"torch: mode {mode!r} was asked for, but {reason}")
        kind = device.partition(":")[0]
        if kind not in self.devices:
            raise UsageError(
                f"torch: no device {device!r}; expected one of {', '.join(self.devices)}, or "
                f"cuda:N"
            )
        names = self.device_names()
        if not is_among(device, names):
            raise FrameworkUnavailable(
                f"torch: device {device!r} was asked for, but torch {self.version()} finds only "
                f"{', '.join(names)}"
            )


def _gpu() -> dict[str, str]:
    """What computes, once something has run on a GPU; looking for one would start it."""
    import torch

    if not torch.cuda.is_initialized():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}


def _flushes_subnormals() -> bool:
    """Whether subnormal numbers are flushed to zero in this process."""
    import torch

    return bool((torch.tensor([1e-40], dtype=torch.float32) * 1).item() == 0)
