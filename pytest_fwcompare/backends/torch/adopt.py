"""Adopts any `torch.nn.Module`: NumPy in, NumPy out, the user's object left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from pytest_fwcompare.backends.base import (
    HYPERPARAMETERS,
    Argument,
    Array,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Recorded,
    Side,
    Stopwatch,
)
from pytest_fwcompare.backends.exhausted import failed
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.backends.torch.dropout import SharedDropout
from pytest_fwcompare.backends.torch.exposed import gradients, one_by_one
from pytest_fwcompare.backends.torch.flatten import flatten
from pytest_fwcompare.backends.torch.guard import Guarded, Tree
from pytest_fwcompare.backends.torch.modes import runner, running
from pytest_fwcompare.backends.torch.precision import Arithmetic, cast
from pytest_fwcompare.backends.torch.shadow import Float64Mode
from pytest_fwcompare.backends.torch.twin import (
    DTYPES,
    Slot,
    frozen_names,
    own_tensor,
    plain_module,
    prepare,
    short,
    slots,
    to_numpy,
    twin_of,
)
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import FwcompareError, ModelError, UsageError
from pytest_fwcompare.formats import format_of

if TYPE_CHECKING:
    from pytest_fwcompare.backends.torch.record import Recorder


NOTHING = contextlib.nullcontext()

HEAVY = 100_000
"""Values of a parameter of which two copies at a time are one too many."""


class TorchSide(Side):
    """One torch module under comparison. See `Side`.

    Args:
        model: the user's module; it is copied unless `own`.
        dtype: working dtype.
        device: "cpu" or "cuda[:N]".
        mode: "eager", "graph" or "compiled"; the float64 shadow is always run eagerly.
        own: True if the module may be cast, moved and changed.

    Raises:
        ModelError: the module cannot be copied.
    """

    framework = "torch"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        plain = plain_module(model)
        self.format = format_of(dtype)
        self.dtype, self.device, self.mode = DTYPES[self.format.stored], torch.device(device), mode
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self.loads: dict[Precision, int] = {"working": 0, "double": 0}
        self._frozen = frozen_names(plain)
        self.model = (prepare if own else twin_of)(plain, self.dtype, self.device)
        self.runner = runner(self.model, mode)
        # Scripts and compiled code call no function that could be replaced.
        scripted = any(isinstance(m, torch.jit.ScriptModule) for m in self.model.modules())
        self.shares_dropout = mode == "eager" and not scripted
        # The user's own module keeps what it came with, unless it is the one that is run.
        self._given = None if own else plain
        self._originals: dict[str, Slot] = {}
        self._double: torch.nn.Module | None = None
        self._names: dict[int, str] = {}
        self._lifted: dict[int, tuple[Any, int, Any]] = {}
        self._slots: dict[Precision, dict[str, Slot]] = {}
        self._trees: dict[Precision, Tree] = {}

    def parameters(self) -> list[Parameter]:
        return [slot.parameter for slot in self.slots("working").values()]

    def read(self) -> dict[str, Array]:
        return {name: to_numpy(slot.tensor) for name, slot in self.slots("working").items()}

    def value(self, name: str) -> Array:
        return to_numpy(self.slots("working")[name].tensor)

    def original(self, name: str) -> Array | None:
        if self._given is None:
            return None
        self._originals = self._originals or slots(self._given)
        values = self._originals[name].tensor.detach().to(self.dtype)
        return to_numpy(values, copy=False)

    def release(self, precision: Precision) -> None:
        if precision == "double":
            self._double = None
            self._slots.pop(precision, None)
            self._trees.pop(precision, None)
            self._names.clear()
            self._lifted.clear()

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        known = self.slots(precision)
        check_values(self.role, (slot.parameter for slot in known.values()), values)
        with torch.no_grad():
            for name in values:
                self._fill(known[name], values[name])
        self.loads[precision] += 1

    def _fill(self, slot: Slot, value: Array) -> None:
        """Give a parameter its value, the old one let go before the new one is made."""
        target = slot.tensor
        on_cpu = self.device.type == "cpu"
        if on_cpu and target.numel() > HEAVY:
            target.data = target.data.new_empty(0)
        array = np.asarray(value, order="C")  # ascontiguousarray makes a scalar (1,)
        fresh = own_tensor(array, target.dtype, self.device)
        if on_cpu:
            # Other memory, not other values: records of earlier passes share the old one.
            target.data = fresh
        else:
            target.copy_(fresh)

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        if record and precision != "double":
            raise UsageError("record=True needs precision='double'")
        return TorchPass(
            self, arguments, precision, training=training, gradients=gradients, record=record
        )

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        from pytest_fwcompare.backends.torch.clock import stopwatch

        return stopwatch(self, arguments, cotangents)

    @contextlib.contextmanager
    def eagerly(self) -> Iterator[None]:
        before = self.runner, self.mode
        self.runner, self.mode = self.model, "eager"
        try:
            yield
        finally:
            self.runner, self.mode = before

    def close(self) -> None:
        self.release("double")
        self._slots.clear()
        self._trees.clear()
        self._given = None
        self._originals.clear()

    def hyperparameters(self) -> dict[str, float]:
        twin = self.twin("double")
        if isinstance(twin, torch.jit.ScriptModule):
            return {}
        return {
            f"{path}.{key}".lstrip("."): vars(module)[key]
            for path, module in twin.named_modules()
            for key in HYPERPARAMETERS
            if type(vars(module).get(key)) is float
        }

    @contextlib.contextmanager
    def changed(self, name: str, value: float) -> Iterator[None]:
        path, _, key = name.rpartition(".")
        module = self.twin("double").get_submodule(path)
        before = getattr(module, key)
        setattr(module, key, value)
        try:
            yield
        finally:
            setattr(module, key, before)

    def twin(self, precision: Precision) -> torch.nn.Module:
        """The module that runs in that precision; the double one is made when first asked for."""
        if precision == "working":
            model: torch.nn.Module = self.model
            return model
        if self._double is None:
            self._double = twin_of(self.model, torch.float64, self.device)
            self._names = {id(module): path for path, module in self._double.named_modules()}
        return self._double

    def tree(self, precision: Precision) -> Tree:
        """The twin with its modules."""
        if precision not in self._trees:
            self._trees[precision] = Tree(self.twin(precision), self.device)
        return self._trees[precision]

    def slots(self, precision: Precision) -> dict[str, Slot]:
        """Parameters of the twin with their tensors; looked up anew only if the twin is new."""
        if precision not in self._slots:
            self._slots[precision] = slots(self.twin(precision), self._frozen)
        return self._slots[precision]

    def mode64(self, record: bool) -> Float64Mode:
        """A fresh mode for one pass of the double twin."""
        self.twin("double")
        if record:
            from pytest_fwcompare.backends.torch.record import Recorder

            held = {id(slot.tensor): name for name, slot in self.slots("double").items()}
            return Recorder(self._names, self._lifted, self.dtype, held)
        return Float64Mode(self._names, self._lifted, self.dtype)

    def tensors(
        self, arguments: Sequence[Argument], precision: Precision, gradients: bool
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Positional and keyword tensors, floats cast to the precision and ready for gradients."""
        dtype = self.dtype if precision == "working" else torch.float64
        positional: list[torch.Tensor] = []
        keywords: dict[str, torch.Tensor] = {}
        for argument in arguments:
            tensor = own_tensor(argument.value, dtype, self.device)
            if tensor.is_floating_point():
                tensor.requires_grad_(gradients)
            if argument.keyword:
                keywords[argument.name] = tensor
            else:
                positional.append(tensor)
        return positional, keywords


@final
class TorchPass(Pass):
    """One forward pass of one twin, with what its backward pass needs."""

    def __init__(
        self,
        side: TorchSide,
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
