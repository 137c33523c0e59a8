"""A replayed reference leads to the verdict, figures and proof that the real one leads to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import autograd.numpy as anp
import numpy as np
import pytest
from hypothesis import strategies as st

from pytest_fwcompare import Comparison, GoldenReference, TensorSpec, compare
from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.golden.record import record
from pytest_fwcompare.golden.session import asked
from pytest_fwcompare.golden.store import GoldenError

Replayed = Callable[..., Comparison]
INPUTS = {"x": TensorSpec(("batch", 5))}


def net(epsilon: float = 1e-5) -> fn.Network:
    return fn.Sequential(
        [fn.Dense(4), fn.LayerNorm(epsilon=epsilon), fn.Activation("relu"), fn.Dense(3)],
        input_shape=(5,),
    )


def normed() -> fn.Network:
    return fn.Sequential([fn.Dense(4), fn.BatchNorm(), fn.Activation("tanh")], input_shape=(5,))


def relu(x: Any) -> Any:
    return anp.maximum(x, 0.0)


def kinked(x: Any) -> Any:
    """Has another derivative at zero, and nowhere else."""
    return anp.where(x >= 0.0, x, 0.0)


def doubled(x: Any) -> Any:
    return 2.0 * x


def detour(x: Any) -> Any:
    """Loses half of float32's digits on the way."""
    return (x + 3000.0) * 2.0 - 6000.0


def test_a_right_port(replayed: Replayed) -> None:
    made = replayed(net(), net(), inputs=net().inputs)
    assert made.verdict == "equivalent"
    assert made.controls.caught == len(made.controls.tried) > 0


def test_a_wrong_port_is_explained_without_the_reference(replayed: Replayed) -> None:
    torch = pytest.importorskip("torch")
    port = fn.Sequential([fn.Dense(4), fn.LayerNorm(epsilon=1e-3)], input_shape=(5,))

    def reference() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4))

    made = replayed(reference, port, inputs=port.inputs)
    assert (made.verdict, made.culprit, made.cause) == ("semantic", "1", "norm-epsilon")
    assert "with epsilon=0.001" in made.evidence[0]


def test_a_fault_that_shows_in_training_alone(replayed: Replayed) -> None:
    slow = fn.Sequential(
        [fn.Dense(4), fn.BatchNorm(momentum=0.5), fn.Activation("tanh")], input_shape=(5,)
    )
    checks = ("forward", "backward", "training")
    made = replayed(normed(), slow, inputs=normed().inputs, checks=checks)
    assert made.verdict == "semantic"
    assert made.culprit == "batch_norm"


def dropping(rate: float, last: int = 3) -> fn.Network:
    layers = [fn.Dense(6), fn.Dropout(rate), fn.Activation("tanh"), fn.Dropout(0.5)]
    return fn.Sequential([*layers, fn.Dense(last)], input_shape=(5,))


def test_dropout_is_compared_by_the_recorded_masks(replayed: Replayed) -> None:
    keywords: dict[str, Any] = {"inputs": dropping(0.25).inputs, "examples": 4}
    keywords["checks"] = ("forward", "backward", "training")
    made = replayed(dropping(0.25), dropping(0.25), **keywords)
    assert made.verdict == "equivalent"
    assert any(row.name.startswith("training output") for row in made.tensors)
    # That a rate is the cause is proved by running the reference with another one.
    wrong = replayed(dropping(0.25), dropping(0.5), explained=False, **keywords)
    assert (wrong.verdict, wrong.cause) == ("semantic", None)


def test_tensors_in_between_that_were_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_fwcompare.golden.recorder.MOST", 0)
    record(net(), tmp_path, "case", asked({"inputs": INPUTS, "examples": 4}))
    made = compare(GoldenReference(tmp_path), net(1e-3), inputs=INPUTS, examples=4)
    assert (made.verdict, made.cause) == ("semantic", None)
    assert any("golden traces hold no intermediate tensors" in text for text in made.notices)


def test_nearby_points_tell_a_kink_from_a_fault(replayed: Replayed) -> None:
    assert replayed(relu, kinked, inputs=INPUTS).verdict == "subgradient"


def test_precision(replayed: Replayed) -> None:
    assert replayed(doubled, detour, inputs=INPUTS).verdict == "precision"


def test_steps_in_training_mode(replayed: Replayed) -> None:
    checks = ("forward", "backward", "training")
    made = replayed(normed(), normed(), inputs=normed().inputs, checks=checks)
    assert made.verdict == "equivalent"
    assert any(row.kind == "buffer" for row in made.tensors)


@pytest.mark.parametrize(
    "keywords",
    [
        {"dtype": "float64"},
        {"seed": 3, "examples": 5},
        {"weights": "given"},
        {"checks": ("forward",)},
        {"inputs": {"x": np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)}},
    ],
    ids=["float64", "seed", "given", "forward", "array"],
)
def test_what_else_may_be_asked(replayed: Replayed, keywords: dict[str, Any]) -> None:
    keywords = {"inputs": INPUTS, "examples": 6} | keywords
    if keywords.get("weights") == "given":
        replayed(doubled, lambda x: x + x, **keywords)
    else:
        replayed(net(), net(), **keywords)


def test_what_a_strategy_drew_is_replayed(replayed: Replayed) -> None:
    drawn = st.integers(1, 4).map(lambda n: np.full((n, 5), 0.1 * n, np.float32))
    assert replayed(doubled, doubled, inputs={"x": drawn}, examples=5).verdict == "equivalent"
    assert replayed(doubled, detour, inputs={"x": drawn}, examples=5).verdict != "equivalent"


def picky(x: Any) -> Any:
    """Refuses some sizes."""
    if x.shape[0] == 3:
        raise ValueError("three is a crowd")
    return 2.0 * x


def test_sizes_that_the_reference_refuses_stay_refused(replayed: Replayed) -> None:
    made = replayed(picky, doubled, inputs=INPUTS)
    assert made.verdict == "equivalent"
    assert any("three is a crowd" in text for text in made.notices)


def test_an_own_weight_mapping(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {"inputs": net().inputs, "examples": 4}
    record(net(), tmp_path / "traces", "case", asked(keywords))
    golden = GoldenReference(tmp_path / "traces")
    pairs = {"dense.bias": "dense.bias"}
    assert compare(golden, net(), weights=pairs, **keywords).verdict == "equivalent"
    copies: Callable[[Any, Any], None] = lambda ours, theirs: None  # noqa: E731
    with pytest.raises(GoldenError, match="weights is a function that copies"):
        compare(golden, net(), weights=copies, **keywords)
    with pytest.raises(GoldenError, match="weights is a function that copies"):
        record(net(), tmp_path / "other", "case", asked({"weights": copies, **keywords}))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": {"y": TensorSpec(("batch", 5))}}, "recorded with inputs ['x'], the test has"),
        ({"dtype": "float64"}, "recorded with dtype 'float32', the test has 'float64'"),
        ({"seed": 1}, "recorded with seed 0, the test has 1; record them anew"),
        ({"weights": "given"}, 'recorded with weights="given" False, the test has True'),
        ({"checks": ("training",)}, "recorded without the check 'training'; record them anew"),
    ],
)
def test_another_question_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    keywords: dict[str, Any] = {"inputs": INPUTS, "examples": 2}
    record(net(), tmp_path, "case", asked(keywords))
    with pytest.raises(GoldenError) as caught:
        compare(GoldenReference(tmp_path), net(), **(keywords | changed))
    assert message in str(caught.value)


def test_other_inputs_of_the_same_name_are_those_recorded(tmp_path: Path) -> None:
    record(doubled, tmp_path, "case", asked({"inputs": INPUTS, "examples": 3}))
    wider = {"x": TensorSpec(("batch", 7))}
    made = compare(GoldenReference(tmp_path), doubled, inputs=wider, examples=9)
    assert made.examples.count == 3
    assert made.examples.worst is not None
    assert made.examples.worst.shapes["x"][1] == 5


def test_other_random_numbers_are_an_error_and_leave_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another NumPy may draw them: no example is taken for one that cannot be run."""
    record(net(), tmp_path, "case", asked({"inputs": INPUTS, "examples": 3}))
    golden = GoldenReference(tmp_path)
    monkeypatch.setattr(np, "__version__", "99.0")
    for kept in golden.reader.index["passes"].values():
        kept["cotangents"] = "others"
    with pytest.raises(GoldenError, match=r"no such gradients: NumPy .* drew .* this is 99\.0"):
        compare(golden, net(), inputs=INPUTS, examples=3)
    golden.reader.index["passes"].clear()
    with pytest.raises(GoldenError, match=r"no such pass: .*; record them anew"):
        compare(golden, net(), inputs=INPUTS, examples=3)


def test_the_models_weights_are_those_it_came_with(tmp_path: Path) -> None:
    """Recording loads others; the ones that were there are the ones that are replayed."""
    from pytest_fwcompare.opening.given import open_side

    record(net(), tmp_path, "case", asked({"inputs": INPUTS, "examples": 3}))
    side = GoldenReference(tmp_path).opened().side
    axes = {"dtype": "float32", "device": "cpu", "mode": "eager"}
    with open_side(net(), "reference", **axes).side as real:
        assert [p.name for p in side.parameters()] == [p.name for p in real.parameters()]
        assert side.parameters()[0] == real.parameters()[0]
        for name, value in real.read().items():
            np.testing.assert_array_equal(side.read()[name], value)
            assert side.read()[name].dtype == value.dtype


def random_side(x: Any) -> Any:
    return x + np.random.standard_normal(x.shape)


def test_a_reference_that_differs_from_itself_is_not_recorded(tmp_path: Path) -> None:
    request = asked({"inputs": INPUTS, "checks": ("forward",)})
    with pytest.raises(GoldenError, match="differs from itself between two equal calls"):
        record(random_side, tmp_path / "traces", "case", request)
    assert not (tmp_path / "traces").exists()


def test_a_reference_that_runs_nothing_is_not_recorded(tmp_path: Path) -> None:
    def broken(x: Any) -> Any:
        raise ValueError("never")

    with pytest.raises(ModelError, match="never"):
        record(broken, tmp_path / "traces", "case", asked({"inputs": INPUTS}))
    assert not (tmp_path / "traces").exists()
