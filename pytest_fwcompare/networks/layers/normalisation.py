"""Normalisation. Epsilon always stands under the root: (x - mean) / sqrt(variance + epsilon)."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_fwcompare.networks import checks
from pytest_fwcompare.networks.base import Layer, ParameterSpec, Shape, show


def scale_and_shift(
    shape: tuple[int, ...], use_scale: bool, use_shift: bool
) -> dict[str, ParameterSpec]:
    """The affine parameters that are used."""
    specs = {"scale": ParameterSpec(shape, "scale")} if use_scale else {}
    return specs | ({"shift": ParameterSpec(shape, "shift")} if use_shift else {})


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """y = scale (x - mean) / sqrt(variance + epsilon) + shift, for each feature.

    Shapes: x (batch, ..., features) gives the same.

    Parameters: scale, shift (features); buffers mean, variance (features). In inference the
    buffers are used. In training mode the mean and the biased variance (divided by the count)
    over all axes but the last are used, and each buffer becomes (1 - momentum) buffer + momentum
    statistic. The statistic is the biased variance (Keras, Flax); torch's own layer stores the
    unbiased one, so a torch model needs count / (count - 1) times the update.

    Args:
        epsilon: added to the variance.
        momentum: weight of the *new* value, as in torch; Keras' and Flax' momentum is 1 minus it.
        use_scale: multiply by scale.
        use_shift: add shift.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    use_scale: bool = True
    use_shift: bool = True

    def __post_init__(self) -> None:
        checks.real(self, "epsilon", self.epsilon, 0.0)
        checks.real(self, "momentum", self.momentum, 0.0, 1.0 + 1e-9)

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        shape = (checks.features(self, shapes[0]),)
        return scale_and_shift(shape, self.use_scale, self.use_shift) | {
            "mean": ParameterSpec(shape, "mean", trainable=False),
            "variance": ParameterSpec(shape, "variance", trainable=False),
        }


@dataclass(frozen=True, eq=False)
class LayerNorm(Layer):
    """y = scale (x - mean) / sqrt(variance + epsilon) + shift over the last `axes` axes.

    Mean and biased variance are those of each example over these axes (Ba et al. 2016,
    arXiv:1607.06450).

    Shapes: x (batch, ..., *normalised) gives the same. Parameters: scale, shift of the shape of
    the normalised axes.

    Args:
        epsilon: added to the variance.
        axes: how many of the last axes.
        use_scale: multiply by scale.
        use_shift: add shift.
    """

    epsilon: float = 1e-5
    axes: int = 1
    use_scale: bool = True
    use_shift: bool = True

    def __post_init__(self) -> None:
        checks.real(self, "epsilon", self.epsilon, 0.0)
        checks.whole(self, "axes", self.axes)

    def _infer(self, *shapes: Shape) -> Shape:
        shape = shapes[0]
        if self.axes >= len(shape):
            raise self.error(
                f"normalises axes={self.axes} axes beside the batch, got {len(shape) - 1} in "
                f"shape {show(shape)}"
            )
        if (self.use_scale or self.use_shift) and not all(
            isinstance(size, int) for size in shape[-self.axes :]
        ):
            raise self.error(
                f"expected known sizes on the last {self.axes} axes, which scale and shift have, "
                f"got shape {show(shape)}"
            )
        return shape

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        shape = tuple(size for size in shapes[0][-self.axes :] if isinstance(size, int))
        return scale_and_shift(shape, self.use_scale, self.use_shift)


@dataclass(frozen=True, eq=False)
class GroupNorm(Layer):
    """y = scale (x - mean) / sqrt(variance + epsilon) + shift over space and a group of features.

    Features are split into `groups` contiguous blocks; mean and biased variance are those of each
    example and block over all spatial axes (Wu and He 2018, arXiv:1803.08494).

    Shapes: x (batch, *space, features) gives the same. Parameters: scale, shift (features).

    Args:
        groups: number of blocks; divides the features.
        epsilon: added to the variance.
        use_scale: multiply by scale.
        use_shift: add shift.
    """

    groups: int
    epsilon: float = 1e-5
    use_scale: bool = True
    use_shift: bool = True

    def __post_init__(self) -> None:
        checks.whole(self, "groups", self.groups)
        checks.real(self, "epsilon", self.epsilon, 0.0)

    def _infer(self, *shapes: Shape) -> Shape:
        features = checks.features(self, shapes[0])
        if features % self.groups:
            raise self.error(
                f"expected a number of features that groups={self.groups} divides, got "
                f"{features} in shape {show(shapes[0])}"
            )
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        shape = (checks.features(self, shapes[0]),)
        return scale_and_shift(shape, self.use_scale, self.use_shift)


@dataclass(frozen=True, eq=False)
class InstanceNorm(Layer):
    """y = scale (x - mean) / sqrt(variance + epsilon) + shift over space, for each feature.

    Mean and biased variance are those of each example and feature over all spatial axes (Ulyanov
    et al. 2016, arXiv:1607.08022); no running statistics.

    Shapes: x (batch, *space, features) gives the same. Parameters: scale, shift (features).

    Args:
        epsilon: added to the variance.
        affine: multiply by scale and add shift.
    """

    epsilon: float = 1e-5
    affine: bool = True

    rank = (3, None)

    def __post_init__(self) -> None:
        checks.real(self, "epsilon", self.epsilon, 0.0)

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return scale_and_shift((checks.features(self, shapes[0]),), self.affine, self.affine)


@dataclass(frozen=True, eq=False)
class RMSNorm(Layer):
    """y = scale x / sqrt(mean(x^2) + epsilon) over the last axis.

    Zhang and Sennrich 2019, arXiv:1910.07467.

    Shapes: x (batch, ..., features) gives the same. Parameters: scale (features).

    Args:
        epsilon: added to the mean square.
        use_scale: multiply by scale.
    """

    epsilon: float = 1e-6
    use_scale: bool = True

    def __post_init__(self) -> None:
        checks.real(self, "epsilon", self.epsilon, 0.0)

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return scale_and_shift((checks.features(self, shapes[0]),), self.use_scale, False)
