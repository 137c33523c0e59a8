"""One pass of a torch module or of its double twin, which can be taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Gradients,
    Pass,
    Precision,
    Recorded,
)
from pytest_fwcompare.backends.exhausted import failed
from pytest_fwcompare.backends.torch.dropout import SharedDropout
from pytest_fwcompare.backends.torch.exposed import gradients, one_by_one
from pytest_fwcompare.backends.torch.flatten import flatten
from pytest_fwcompare.backends.torch.guard import Guarded
from pytest_fwcompare.backends.torch.model import TorchModel
from pytest_fwcompare.backends.torch.modes import running
from pytest_fwcompare.backends.torch.precision import Arithmetic, cast
from pytest_fwcompare.backends.torch.twin import (
    own_tensor,
    short,
    to_numpy,
)
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import FwcompareError, ModelError

if TYPE_CHECKING:
    from pytest_fwcompare.backends.torch.record import Recorder


NOTHING = contextlib.nullcontext()


@final
class TorchPass(Pass):
    """One forward pass of one twin, with what its backward pass needs."""

    def __init__(
        self,
        side: TorchModel,
        arguments: Sequence[Argument],
        precision: Precision,
        *,
        training: bool,
        gradients: bool,
        record: bool,
    ) -> None:
        self._side, self._precision, self._training = side, precision, training
        self._gradients, self._taken_back = gradients, False
        self._loads = side.loads[precision]
        self._mode = side.mode64(record) if precision == "double" else None
        self._buffers: dict[str, Array] = {}
        positional, keywords = side.tensors(arguments, precision, gradients)
        order, names = iter(positional), [argument.name for argument in arguments]
        self._inputs = {a.name: keywords[a.name] if a.keyword else next(order) for a in arguments}
        assert len(self._inputs) == len(names), f"input names repeat: {names}"
        recorder = self._recorder()
        with self._running("forward") as copies:
            if recorder is not None:
                recorder.start(self._inputs, copies)
            try:
                result = self._runner()(*positional, **keywords)
            finally:
                if recorder is not None:
                    recorder.stop()
        if copies:
            self._keep_buffers(copies)
        self._outputs, self.skipped = flatten(result)
        self._check_outputs()
        self.outputs = {name: to_numpy(self._settled(t)) for name, t in self._outputs.items()}
        self._report()

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        held = self._trained()
        found = self._take_back(cotangents, list(held.values()))
        inputs = self._input_gradients(found)
        parameters = (None if g is None else to_numpy(g, copy=False) for g in found[len(inputs) :])
        return Gradients(inputs, dict(zip(held, parameters, strict=True)))

    def backward_each(
        self, cotangents: Mapping[str, Array], take: Callable[[str, Array | None], None]
    ) -> Mapping[str, Array | None]:
        """As torch makes them: each gradient is let go before the next one is there."""
        held = self._trained()
        with one_by_one(held, lambda name, g: take(name, to_numpy(g, copy=False))) as missing:
            found = self._take_back(cotangents, [], list(held.values()))
        for name in missing:
            take(name, None)
        return self._input_gradients(found)

    def _trained(self) -> dict[str, torch.Tensor]:
        slots = self._side.slots(self._precision)
        return {name: slot.tensor for name, slot in slots.items() if slot.parameter.trainable}

    def _take_back(
        self,
        cotangents: Mapping[str, Array],
        wanted: list[torch.Tensor],
        hooked: Sequence[torch.Tensor] = (),
    ) -> Sequence[torch.Tensor | None]:
        """Gradients of the inputs and of the tensors wanted; those hooked see theirs pass by."""
        self._check_backward(cotangents)
        self._taken_back = True
        outputs = {
            name: tensor
            for name, tensor in self._outputs.items()
            if name in cotangents and tensor.requires_grad
        }
        wanted = [*self._float_inputs().values(), *wanted]
        if not outputs or not (wanted or hooked):
            return [None] * len(wanted)
        begins = self._cotangents(cotangents, outputs)
        with self._running("backward"):
            return gradients(list(outputs.values()), wanted, begins, hooked)

    def _float_inputs(self) -> dict[str, torch.Tensor]:
        return {n: t for n, t in self._inputs.items() if t.is_floating_point()}

    def _input_gradients(self, found: Sequence[torch.Tensor | None]) -> dict[str, Array | None]:
        """By input name; zeros where nothing depends on it."""
        return {
            name: np.zeros(tuple(tensor.shape), self._dtype(tensor))
            if gradient is None
            else to_numpy(gradient, copy=False)
            for (name, tensor), gradient in zip(self._float_inputs().items(), found, strict=False)
        }

    def buffers(self) -> dict[str, Array]:
        return self._buffers

    def recorded(self) -> list[Recorded]:
        recorder = self._recorder()
        return [] if recorder is None else recorder.records()

    def _runner(self) -> Callable[..., Any]:
        """What is called: a shadow is run as it is, in whatever mode the side is."""
        if self._mode is None:
            return self._side.runner
        twin: Callable[..., Any] = self._side.twin("double")
        return twin

    def _recorder(self) -> Recorder | None:
        """The mode, if it records."""
        mode: Any = self._mode
        return mode if hasattr(mode, "records") else None

    @contextlib.contextmanager
    def _running(self, stage: str) -> Iterator[dict[int, torch.Tensor]]:
        """Guard the twin, switch the mode on, and turn what it raises into a ModelError."""
        side, mode = self._side, self._mode
        guard = Guarded(
            side.tree(self._precision),
            training=self._training,
            gradients=self._gradients,
            shadow_of=None if mode is None else side.dtype,
        )
        exact = Arithmetic(side.format, side.device, side.note_reduced if mode is None else None)
        try:
            with exact, guard as copies, mode or self._inner(stage), self._dropout():
                yield copies
        except (FwcompareError, Warning):
            raise
        except Exception as error:
            stage = "shadow" if mode is not None and stage == "forward" else stage
            raise failed(side.role, stage, "torch", error, str(side.device)) from error

    def _inner(self, stage: str) -> contextlib.AbstractContextManager[Any]:
        """Around a pass in working precision."""
        side = self._side
        if side.mode == "eager" and not side.format.mixed:
            return NOTHING
        with contextlib.ExitStack() as stack:
            stack.enter_context(running(side.mode))
            if stage == "forward":
                stack.enter_context(cast(side.format, side.device))
            return stack.pop_all()

    def _dropout(self) -> contextlib.AbstractContextManager[Any]:
        """Shared masks while a step in training mode runs, forward and backward."""
        draws = current() if self._training else None
        if draws is None:
            return NOTHING
        return SharedDropout(draws, None if self._mode is None else self._mode.path)

    def _keep_buffers(self, copies: Mapping[int, torch.Tensor]) -> None:
        """Hand out the float buffers as the pass left them."""
        for name, slot in self._side.slots(self._precision).items():
            if not slot.parameter.trainable and id(slot.tensor) in copies:
                self._buffers[name] = to_numpy(copies[id(slot.tensor)])

    def _check_outputs(self) -> None:
        """Refuse a result that cannot be judged."""
        role = self._side.role
        stage = "forward" if self._mode is None else "shadow"
        if not self._outputs:
            what = "; ".join(f"{name} {reason}" for name, reason in self.skipped.items())
            raise ModelError(
                role,
                stage,
                f"expected a tensor, or a tuple, dict or dataclass with tensors, but the model "
                f"returned none ({what or 'an empty container'}). Return the tensors to compare",
            )
        for name, tensor in self._outputs.items():
            if tensor.is_complex():
                raise ModelError(
                    role,
                    stage,
                    f"output {name!r} is {short(tensor.dtype)}, and complex outputs are not "
                    f"compared: return its real and imaginary parts (torch.view_as_real)",
                )

    def _settled(self, tensor: torch.Tensor) -> torch.Tensor:
        """The output; a shadow's in float64, whatever the model made of it."""
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if self._mode is None or not tensor.is_floating_point() or tensor.dtype is torch.float64:
            return tensor
        self._mode.note_leak("the model", f"returned {short(tensor.dtype)}")
        return tensor.double()

    def _report(self) -> None:
        """Tell the side what the shadow could not do in float64."""
        if self._mode is not None:
            self._side.leaks[:] = self._mode.leaks
            known = self._side.rounded_constants
            known.extend(text for text in self._mode.rounded if text not in known)

    def _check_backward(self, cotangents: Mapping[str, Array]) -> None:
        """Refuse what cannot be taken back, in words."""
        role = self._side.role
        if not self._gradients:
            raise ModelError(role, "backward", "the pass was run with gradients=False")
        if self._taken_back:
            raise ModelError(role, "backward", "the pass was taken back before; run it again")
        if self._loads != self._side.loads[self._precision]:
            raise ModelError(
                role, "backward", "weights were loaded since the pass ran; run it again"
            )
        for name, cotangent in cotangents.items():
            if name not in self._outputs:
                names = ", ".join(self._outputs)
                raise ModelError(role, "backward", f"no output {name!r}; the outputs are {names}")
            shape = tuple(self._outputs[name].shape)
            if np.shape(cotangent) != shape:
                raise ModelError(
                    role,
                    "backward",
                    f"the cotangent of output {name!r} has shape {np.shape(cotangent)}, expected "
                    f"{shape}",
                )

    def _cotangents(
        self, values: Mapping[str, Array], outputs: Mapping[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Tensors like the outputs; made before the mode is on, which would look at each call."""
        side = self._side
        try:
            return [own_tensor(values[n], t.dtype, t.device) for n, t in outputs.items()]
        except Exception as error:  # a device that is full
            raise failed(side.role, "backward", "torch", error, str(side.device)) from error

    def _dtype(self, tensor: torch.Tensor) -> str:
        """NumPy name of the dtype in which a gradient of the tensor is handed out."""
        return "float32" if tensor.dtype is torch.bfloat16 else short(tensor.dtype)
