"""The smallest error that is noticed, by depth, beside two plain tolerances.

    python benchmarks/sensitivity.py [--depths 2 8 32 64] [--examples 20]
                                     [--json PATH] [--read PATH] [--plot PATH]

A stack of blocks (linear, layer norm, GELU) is compared with a port that sums the products of its
linear layers in the opposite order, as another framework might: the same function, rounded another
way. The port has one relative error e in its middle block:

weight       one element of the linear layer's weight times 1 + e
epsilon      the layer norm's epsilon times 1 + e
activation   the GELU's output times 1 + e

For each depth the smallest e of half decades that is noticed, by bisection; "alarm" if the right
port (e = 0) is objected to. "fails" is a verdict of another function by `fwc.compare`; "notice" is
that or the notice of a hidden difference, which fails nothing. Beside it what
`numpy.allclose(rtol=atol=1e-5)` and `torch.testing.assert_close` (its float32 defaults) notice on
five standard normal inputs with the weights torch starts with, outputs and gradients together.

`--json` keeps the figures, `--read` takes them from such a file, and `--plot` draws them (it needs
matplotlib). `results/sensitivity.svg` was drawn from `results/sensitivity.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import pytest_fwcompare as fwc

WIDTH, BATCH = 16, 4
FAULTS = ("weight", "epsilon", "activation")
FINEST = 30
"""Half decades: errors of 1 down to 1e-15."""


class Block(nn.Module):
    """Linear, layer norm, GELU; `fault` says what is wrong by the relative `error`.

    With `backwards` the linear layer sums its products from the last to the first.
    """

    def __init__(
        self, backwards: bool = False, fault: str | None = None, error: float = 0.0
    ) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.backwards, self.fault, self.error = backwards, fault, error
        if fault == "epsilon":
            self.norm.eps *= 1 + error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, width) to (batch, width)."""
        if self.backwards:
            weight, bias = self.linear.weight, self.linear.bias
            hidden = nn.functional.linear(x.flip(1), weight.flip(1), bias)
        else:
            hidden = self.linear(x)
        if self.fault == "weight":
            moved = self.linear.weight[0, 0] * self.error * x[:, :1]
            hidden = torch.cat([hidden[:, :1] + moved, hidden[:, 1:]], 1)
        found = nn.functional.gelu(self.norm(hidden))
        return found * (1 + self.error) if self.fault == "activation" else found


def stack(depth: int) -> nn.Module:
    """The reference; equal weights every time."""
    torch.manual_seed(depth)
    return nn.Sequential(*[Block() for _ in range(depth)], nn.Linear(WIDTH, WIDTH))


def port(depth: int, fault: str, error: float) -> nn.Module:
    """The port, wrong in its middle block."""
    torch.manual_seed(depth)
    blocks = [Block(True, fault if place == depth // 2 else None, error) for place in range(depth)]
    return nn.Sequential(*blocks, nn.Linear(WIDTH, WIDTH))


class Compared:
    """What `fwc.compare` says of each error, asked once."""

    def __init__(self, depth: int, fault: str, examples: int) -> None:
        self.depth, self.fault, self.examples = depth, fault, examples
        self.said: dict[float, fwc.Comparison] = {}

    def ask(self, error: float) -> fwc.Comparison:
        """The comparison with the port that has this error."""
        if error not in self.said:
            self.said[error] = fwc.compare(
                stack(self.depth),
                port(self.depth, self.fault, error),
                inputs={"x": fwc.TensorSpec((BATCH, WIDTH))},
                examples=self.examples,
            )
        return self.said[error]

    def fails(self, error: float) -> bool:
        """Whether it is called another function."""
        return self.ask(error).verdict not in ("equivalent", "subgradient")

    def notices(self, error: float) -> bool:
        """Whether it fails or is put on record."""
        said = self.ask(error)
        hidden = any(text.startswith("hidden difference") for text in said.notices)
        return said.verdict != "equivalent" or hidden


def values(model: nn.Module, seed: int) -> list[torch.Tensor]:
    """Output and all gradients for one standard normal input."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, WIDTH, generator=generator).requires_grad_()
    output = model(x)
    cotangent = torch.randn(output.shape, generator=generator)
    return [output.detach(), *torch.autograd.grad(output, [x, *model.parameters()], cotangent)]


def allclose(expected: torch.Tensor, obtained: torch.Tensor) -> bool:
    """numpy.allclose with both tolerances at 1e-5."""
    return bool(np.allclose(obtained.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5))


def assert_close(expected: torch.Tensor, obtained: torch.Tensor) -> bool:
    """torch.testing.assert_close with its defaults."""
    try:
        torch.testing.assert_close(obtained, expected)
    except AssertionError:
        return False
    return True


def flagged(close: Callable[..., bool], depth: int, fault: str, error: float) -> bool:
    """Whether a plain tolerance refuses any tensor of five inputs."""
    sides = stack(depth), port(depth, fault, error)
    return any(
        not close(expected, obtained)
        for seed in range(5)
        for expected, obtained in zip(*(values(side, seed) for side in sides), strict=True)
    )


def smallest(sees: Callable[[float], bool]) -> float:
    """The smallest error of half decades that is seen; infinity if 1 is not, 0 if nothing is.

    Seen errors are taken to be all from some size on.
    """
    if sees(0.0):
        return 0.0
    if not sees(1.0):
        return float("inf")
    seen, unseen = 0, FINEST
    while unseen - seen > 1:
        middle = (seen + unseen) // 2
        if sees(10.0 ** (-middle / 2)):
            seen = middle
        else:
            unseen = middle
    return float(10.0 ** (-seen / 2))


Rows = list[tuple[str, int, dict[str, float]]]
"""Fault, depth, and the smallest error by who noticed it."""

NAMES = ("fails", "notice", "allclose 1e-5", "assert_close")
LABELS = ("fwcompare fails", "fwcompare fails or notices", "allclose(1e-5)", "assert_close")
COLOURS = ("#0b5fa5", "#74add1", "#d95f02", "#7f7f7f")


def plot(rows: Rows, path: Path) -> None:
    """Curves over depth, one panel a fault; a cross at the top where the right port is alarmed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "sensitivity"  # equal figures give equal files
    figure, panels = pyplot.subplots(1, len(FAULTS), sharey=True, figsize=(11, 4))
    for panel, fault in zip(panels, FAULTS, strict=True):
        mine = [(depth, found) for name, depth, found in rows if name == fault]
        for name, label, colour in zip(NAMES, LABELS, COLOURS, strict=True):
            seen = [(depth, found[name]) for depth, found in mine if 0 < found[name] <= 1]
            alarms = [depth for depth, found in mine if not found[name]]
            panel.loglog(*zip(*seen, strict=True), "o-", color=colour, label=label)
            if alarms:
                place = 3.0 if name == NAMES[2] else 8.0
                panel.plot(alarms, [place] * len(alarms), "x", color=colour)
        panel.set(title=f"one {fault}", xlabel="depth (blocks)", ylim=(1e-13, 30))
        panel.set_xticks(depths := [depth for depth, _ in mine], [str(d) for d in depths])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("smallest relative error noticed")
    panels[-1].plot([], [], "x", color="#333333", label="the right port is objected to")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def measured(depths: list[int], examples: int) -> Rows:
    """The figures, printed as they come."""
    rows: Rows = []
    for fault in FAULTS:
        for depth in depths:
            compared = Compared(depth, fault, examples)
            searches: tuple[Callable[[float], bool], ...] = (
                compared.fails,
                compared.notices,
                lambda e, f=fault, d=depth: flagged(allclose, d, f, e),
                lambda e, f=fault, d=depth: flagged(assert_close, d, f, e),
            )
            rows.append((fault, depth, dict(zip(NAMES, map(smallest, searches), strict=True))))
            print(line(*rows[-1]), flush=True)
    return rows


def line(fault: str, depth: int, found: dict[str, float]) -> str:
    """One row of the table."""
    told = (f"{found[n]:14.1e}" if found[n] else f"{'alarm':>14s}" for n in NAMES)
    return f"{fault:12s} {depth:5d}  " + "  ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 8, 32, 64])
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--read", type=Path, help="take the figures from this file")
    parser.add_argument("--plot", type=Path, help="write the curves to this .svg or .png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'error in':12s} {'depth':>5s}  " + "  ".join(f"{name:>14s}" for name in NAMES))
    if options.read is not None:
        rows = [tuple(row) for row in json.loads(options.read.read_text())["rows"]]
        print("\n".join(line(*row) for row in rows))
    else:
        rows = measured(options.depths, options.examples)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        facts = {"torch": torch.__version__, "examples": options.examples, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    if options.plot is not None:
        try:
            plot(rows, options.plot)
        except ImportError:
            sys.exit("--plot needs matplotlib")


if __name__ == "__main__":
    main()
