import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from pytest_fwcompare.backends import registry  # noqa: E402
from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.errors import UsageError  # noqa: E402

X = np.random.default_rng(0).normal(size=(2, 5, 8))


def record(model, *values, backward=True):
    side = registry.backend("torch").adopt(
        model, dtype="float32", device="cpu", mode="eager", own=False
    )
    arguments = [Argument(f"x{i}", value) for i, value in enumerate(values or (X,))]
    plain = side.forward(arguments, precision="double")
    done = side.forward(arguments, precision="double", record=True)
    for name, value in plain.outputs.items():
        assert np.allclose(done.outputs[name], value, rtol=1e-13, atol=1e-15)
    if backward:
        cotangents = {k: np.ones(v.shape) for k, v in done.outputs.items()}
        expected, obtained = plain.backward(cotangents), done.backward(cotangents)
        for name, value in expected.parameters.items():
            if value is not None:
                assert np.allclose(obtained.parameters[name], value, rtol=1e-9, atol=1e-12)
    return done.recorded()


def operations(records):
    return [(r.path, r.operation) for r in records if not r.is_module]


class Runs(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *values):
        return self.function(self, *values)


class Block(nn.Module):
    """A norm, glue code of its own, and a linear layer used through a method of it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8, eps=1e-3)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh"))

    def forward(self, x):
        return x + 2 * self.mlp(self.norm(x))


def test_every_call_has_a_path_attributes_inputs_parameters_and_a_gradient():
    records = record(nn.Sequential(Block(), Block()))
    assert operations(records)[:7] == [
        ("", "input"),
        ("0.norm", "layer_norm"),
        ("0.mlp.0", "linear"),
        ("0.mlp.1", "gelu"),
        ("0", "mul"),
        ("0", "add"),
        ("1.norm", "layer_norm"),
    ]
    norm = next(r for r in records if r.operation == "layer_norm")
    assert norm.attributes == {"normalized_shape": (8,), "eps": 1e-3}
    assert norm.parameters == ("0.norm.weight", "0.norm.bias")
    assert records[norm.inputs[0]].operation == "input"
    assert norm.arguments[0] is records[0].value
    assert len(norm.arguments) == 3
    gelu = next(r for r in records if r.operation == "gelu")
    assert gelu.attributes == {"approximate": "tanh"}
    double = next(r for r in records if r.operation == "mul")
    assert double.attributes == {"other": 2}
    add = next(r for r in records if r.operation == "add")
    assert [records[i].operation for i in add.inputs] == ["input", "mul"]
    # The last sum is the output, so its gradient is the cotangent of ones.
    last = [r for r in records if r.operation == "add"][-1]
    assert np.array_equal(last.gradient, np.ones_like(X))
    assert all(r.gradient is not None for r in records)
    assert [r.index for r in records] == list(range(len(records)))
    assert len({r.place for r in records}) == len(records)


def test_modules_come_after_what_is_in_them():
    records = record(nn.Sequential(Block()))
    found = [(r.path, r.operation) for r in records if r.is_module]
    assert found == [
        ("0.norm", "LayerNorm"),
        ("0.mlp.0", "Linear"),
        ("0.mlp.1", "GELU"),
        ("0.mlp", "Sequential"),
        ("0", "Block"),
        ("", "Sequential"),
    ]
    block = next(r for r in records if r.operation == "Block")
    inner = records[block.index - 1]
    assert inner.operation == "add"
    assert block.value is inner.value
    assert np.array_equal(block.gradient, inner.gradient)
    assert block.inputs == (0,)
    linear = next(r for r in records if r.operation == "Linear")
    assert linear.attributes == {"in_features": 8, "out_features": 8}


def test_gradients_are_those_of_the_values():
    records = record(Runs(lambda m, x: (m.norm(x) ** 3).sum(), norm=nn.LayerNorm(8)))
    norm = next(r for r in records if r.operation == "layer_norm")
    assert np.allclose(norm.gradient, 3 * norm.value**2, rtol=1e-12)


def test_places_are_the_same_in_every_run():
    model = nn.Sequential(Block(), nn.LSTM(8, 3, batch_first=True))
    side = registry.backend("torch").adopt(
        model, dtype="float32", device="cpu", mode="eager", own=False
    )
    runs = []
    for size in (2, 3):
        arguments = [Argument("x", np.ones((size, 4, 8)))]
        done = side.forward(arguments, precision="double", record=True)
        runs.append([r.place for r in done.recorded()])
    assert runs[0] == runs[1]


def in_place(_, x):
    y = x * 2
    z = y[:, 1]  # a view, written through its base, and the other way round
    y[:, 0] = 3.0
    z.mul_(5)
    y += 1
    return F.relu(y, inplace=True)


def test_values_are_kept_from_before_they_are_written_over():
    records = record(Runs(in_place))
    values = {r.operation: r for r in records if not r.is_module}
    doubled = next(r for r in records if r.operation == "mul")
    assert np.allclose(doubled.value, 2 * X)
    filled = values["setitem"]
    assert np.allclose(filled.value[:, 0], 3)
    assert np.allclose(filled.value[:, 1], 2 * X[:, 1])
    assert np.allclose(values["getitem"].value, 2 * X[:, 1])
    scaled = [r for r in records if r.operation == "mul"][-1]
    assert np.allclose(scaled.value, 10 * X[:, 1])
    added = values["add"]
    assert np.allclose(added.value[:, 1], 10 * X[:, 1] + 1)
    assert np.allclose(added.value[:, 2:], 2 * X[:, 2:] + 1)
    assert np.allclose(values["relu"].value, np.maximum(added.value, 0))
    # The written base is on record before it is read again, made of itself and of the view.
    written = records[added.inputs[0]]
    assert written.operation == "written"
    assert scaled.index in written.inputs
    assert np.allclose(added.arguments[0], added.value - 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["add_", "view", "set", "relu_", "new"]), max_size=7))
def test_each_record_holds_what_its_operation_gave(steps):
    kept = []

    def run(_, x):
        y = x * 1.5
        for step in steps:
            if step == "add_":
                y.add_(0.5)
            elif step == "view":
                y[:, 2].mul_(-2)
            elif step == "set":
                y[..., 1] = 0.25
            elif step == "relu_":
                F.leaky_relu_(y, 0.2)
            else:
                y = torch.sin(y)
            kept.append(y.detach().numpy().copy())
        return y * 3

    records = record(Runs(run), backward=False)
    final = kept[len(steps) : 2 * len(steps)] or [X * 1.5]
    last = [r for r in records if r.operation == "mul" and not r.is_module][-1]
    assert np.array_equal(last.value, final[-1] * 3)
    assert np.array_equal(last.arguments[0], final[-1])
    sines = [r.value for r in records if r.operation == "sin"]
    assert [v.tolist() for v in sines] == [
        v.tolist() for v, s in zip(final, steps, strict=False) if s == "new"
    ]


def attends(module, x):
    return (
        F.scaled_dot_product_attention(x, x, x, is_causal=True)
        + module.mha(x, x, x, need_weights=False)[0]
    )


def test_composite_functions_show_what_is_in_them():
    records = record(Runs(attends, mha=nn.MultiheadAttention(8, 2, batch_first=True)))
    names = [r.operation for r in records if r.path == "mha" and not r.is_module]
    for name in ("linear", "softmax", "matmul"):
        assert name in names
    composites = [r.operation for r in records if r.is_module]
    assert composites[:3] == ["scaled_dot_product_attention"] * 2 + [
        "multi_head_attention_forward"
    ]
    causal = next(r for r in records if r.operation == "scaled_dot_product_attention")
    assert causal.attributes["is_causal"] is True
    weights = next(r for r in records if r.operation == "softmax")
    assert np.allclose(weights.value.sum(-1), 1)
    assert weights.value[0, 0, 1] == 0
    assert weights.gradient is not None


@pytest.mark.parametrize("mask", ["none", "bool", "float", "empty"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_run_openly_is_torchs_own(mask, scale):
    rng = np.random.default_rng(1)
    keep = torch.from_numpy(rng.random((2, 1, 5, 5)) < 0.7)
    keep[..., 0] = True
    masks = {
        "none": None,
        "bool": keep,
        "float": torch.from_numpy(rng.normal(size=(2, 1, 5, 5))),
        "empty": keep & (torch.arange(5) > 0)[:, None],
    }
    chosen = masks[mask]

    def run(_, q, k):
        fitting = None if chosen is None else chosen.to(q.dtype if mask == "float" else torch.bool)
        return F.scaled_dot_product_attention(
            q, k, k, fitting, is_causal=chosen is None, scale=scale, enable_gqa=True
        )

    records = record(Runs(run), rng.normal(size=(2, 4, 5, 8)), rng.normal(size=(2, 2, 5, 8)))
    assert records[-1].is_module


def test_recurrent_layers_and_several_outputs():
    records = record(nn.LSTM(8, 3, batch_first=True, bidirectional=True))
    found = [r for r in records if r.operation == "lstm"]
    assert [r.attributes["output"] for r in found] == [0, 1, 2]
    assert found[0].attributes["bidirectional"] is True
    assert found[0].attributes["batch_first"] is True
    assert found[0].parameters[:2] == ("weight_ih_l0", "weight_hh_l0")
    assert [r.attributes["output"] for r in records if r.operation == "LSTM"] == [
        "0",
        "1.0",
        "1.1",
    ]


BOUND = {
    "conv2d": (
        lambda m, x: F.conv2d(x[:, None], m.inner.weight, stride=(1, 2), padding=(1, 1)),
        {"stride": (1, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "bias": None},
    ),
    "leaky_relu": (lambda m, x: F.leaky_relu(x, 0.3), {"negative_slope": 0.3, "inplace": False}),
    "softmax": (lambda m, x: x.softmax(-2), {"dim": -2, "dtype": None}),
    "mean": (lambda m, x: x.mean((1, 2), keepdim=True), {"dim": (1, 2), "keepdim": True}),
    "std": (lambda m, x: x.std(1, correction=0), {"dim": 1, "correction": 0}),
    "permute": (lambda m, x: x.permute(0, 2, 1), {"dims": (0, 2, 1)}),
    "view": (lambda m, x: x.view(2, -1), {"size": (2, -1)}),
    "max_pool1d": (
        lambda m, x: F.max_pool1d(x, 3, padding=1),
        {"kernel_size": 3, "stride": None, "padding": 1, "ceil_mode": False},
    ),
    "pow": (lambda m, x: x**3, {"exponent": 3}),
    "transpose": (lambda m, x: x.transpose(1, 2), {"dim0": 1, "dim1": 2}),
    "clamp": (lambda m, x: x.clamp(-0.5, max=0.7), {"min": -0.5, "max": 0.7}),
    "rsub": (lambda m, x: 1 - x, {"other": 1}),
    "rdiv": (lambda m, x: 2 / x, {"other": 2}),
    "einsum": (lambda m, x: torch.einsum("btd,bsd->bts", x, x), {"equation": "btd,bsd->bts"}),
    "getitem": (lambda m, x: x[:, 1:3], {"index": ("slice(None,None,None)", "slice(1,3,None)")}),
    "rms_norm": (lambda m, x: F.rms_norm(x, (8,)), {"eps": torch.finfo(torch.float32).eps}),
    "mT": (lambda m, x: x.mT, {}),
}


@pytest.mark.parametrize("name", BOUND)
def test_arguments_have_names(name):
    function, facts = BOUND[name]
    records = record(Runs(function, inner=nn.Conv2d(1, 2, 3, bias=False)))
    found = next(r for r in records if r.operation == name)
    assert facts.items() <= found.attributes.items(), found.attributes


def test_tokens_and_masks_carry_the_data_flow():
    def run(module, tokens, keep):
        return module.table(tokens).masked_fill(~keep[..., None], 0.0)

    tokens, keep = np.array([[1, 2, 0]]), np.array([[True, False, True]])
    records = record(Runs(run, table=nn.Embedding(4, 3)), tokens, keep)
    lookup = next(r for r in records if r.operation == "embedding")
    assert records[lookup.inputs[0]].value.tolist() == [[1, 2, 0]]
    fill = next(r for r in records if r.operation == "masked_fill")
    assert [records[i].operation for i in fill.inputs] == ["embedding", "invert"]


def test_within_vmap_nothing_is_recorded_but_what_comes_out_is_used():
    def run(_, x):
        scale = torch.tensor(0.1, dtype=torch.float32)
        return torch.vmap(lambda row: row.to(torch.float32) * scale)(x) + 1

    records = record(Runs(run))
    last = [r for r in records if r.operation == "add"][-1]
    assert np.allclose(last.value, X * 0.1 + 1, rtol=1e-15)
    assert last.gradient is not None


def test_weights_loaded_later_do_not_reach_into_a_record():
    side = registry.backend("torch").adopt(
        nn.BatchNorm1d(5), dtype="float32", device="cpu", mode="eager", own=False
    )
    done = side.forward([Argument("x", X)], precision="double", record=True)
    side.load({name: np.full(5, 7.0) for name in side.read()}, "double")
    norm = next(r for r in done.recorded() if r.operation == "batch_norm")
    values = dict(zip(norm.parameters, norm.arguments[1:], strict=True))
    assert values.keys() == {"weight", "bias", "running_mean", "running_var"}
    assert values["weight"].tolist() == [1] * 5
    assert values["running_mean"].tolist() == [0] * 5


def test_a_shared_module_counts_its_uses():
    shared = nn.Linear(8, 8)
    records = record(nn.Sequential(shared, nn.Tanh(), shared))
    assert [r.place for r in records if r.operation == "linear"] == ["0:linear:0", "0:linear:1"]


def test_recording_is_of_shadows_only_and_leaves_nothing_behind():
    model = nn.Linear(8, 8)
    side = registry.backend("torch").adopt(
        model, dtype="float32", device="cpu", mode="eager", own=False
    )
    with pytest.raises(UsageError, match="record=True needs precision='double'"):
        side.forward([Argument("x", X)], precision="working", record=True)
    done = side.forward([Argument("x", X)], precision="double")
    assert done.recorded() == []
    assert not torch.nn.modules.module._global_forward_hooks
