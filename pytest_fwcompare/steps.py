"""A training comparison under way: gradients, steps of both optimizers, judged updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.backends.optimizers import Stepper, open_stepper
from pytest_fwcompare.comparing.request import Request, Story
from pytest_fwcompare.diagnose.optimizers import Series
from pytest_fwcompare.diagnose.updates import explain_updates
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import finite_maximum, representable
from pytest_fwcompare.judge.tally import Finding, Tally, plain_verdict
from pytest_fwcompare.judge.updates import judge_update
from pytest_fwcompare.judge.verdict import Assessment, assess, moved
from pytest_fwcompare.losses import LOSS_ROW, Loss
from pytest_fwcompare.progress import tell
from pytest_fwcompare.records import Comparison, ExampleRecord, Examples
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point
from pytest_fwcompare.weights.mapping import Link

ROLES = ("reference", "port")

DRAWS = 2
"""Runs of the reference's optimizer on moved gradients, for the jitter."""

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Training:
    """The arguments of `compare_training` that `compare` does not have, checked."""

    optimizers: Mapping[str, Any]
    loss: Loss
    steps: int
    schedules: Mapping[str, Schedule | None]
    scales: tuple[float, ...]


@dataclass
class Record:
    """What both optimizers did at one scale, in the port's layout."""

    scale: float
    reference: Series
    port: Series


@dataclass(frozen=True)
class Trained:
    """One parameter of the port that is trained, or should be.

    Attributes:
        link: how the port's is made.
        source: name of the reference's.
        moves: whether the port trains it.
        expected: whether the reference does.
    """

    link: Link
    source: str
    moves: bool
    expected: bool

    @property
    def title(self) -> str:
        """Name of its row."""
        return f"update of {self.source}"


@dataclass
class Run:
    """A training comparison under way."""

    pair: Pair
    request: Request
    training: Training
    story: Story
    telling: Example
    tally: Tally[Example] = field(default_factory=Tally)
    records: list[Record] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trained = list(self._trained())
        if not self.trained:
            raise UsageError(
                "compare_training: no parameter of the reference is paired with one of the port; "
                "give weights={port name: reference name}"
            )
        self.sources = list(dict.fromkeys(t.source for t in self.trained))
        point = self.pair.point(self.telling)
        self.pair.expect(self.pair.run("reference", point, "double", backward=False))
        self.in_training = not self.pair.training_is_random(point)
        if not self.in_training:
            self.story.notices[
                "gradients were compared in inference mode: a side draws random numbers in "
                "training mode (dropout)"
            ] = None

    def _trained(self) -> Iterator[Trained]:
        """Parameters whose updates can be held against each other."""
        pair = self.pair
        assert pair.mapping is not None
        rng = np.random.default_rng(0)
        for link in pair.mapping.links:
            ours = [pair.reference_parameters[name] for name in link.sources]
            moves = is_trained(pair.port_parameters[link.port])
            if not any(p.trainable for p in ours):
                if moves:
                    self.story.notices[
                        f"the port trains {link.port}, which is a buffer of the reference"
                    ] = None
                continue
            if len(ours) != 1 or not _rearranges(link, ours[0].shape, rng):
                self.story.notices[
                    f"updates of {link.port} are not compared: it is made from "
                    f"{' and '.join(link.sources) or 'nothing'}, and only parameters made from "
                    f"one of the reference's by rearranging can be"
                ] = None
                continue
            if moves or is_trained(ours[0]):
                yield Trained(link, ours[0].name, moves, is_trained(ours[0]))

    # Steps -------------------------------------------------------------------------------------

    def batches(self) -> list[Example]:
        """One example a step, ordinary ones first."""
        plan, steps = self.pair.plan, self.training.steps
        planned = sorted(plan.planned(4 * steps), key=lambda e: e.telling, reverse=True)
        sizes = dict(self.telling.sizes)
        planned = [
            e for e in planned if dict(e.sizes) == sizes and e.weights == self.telling.weights
        ] or [self.telling]
        return [planned[step % len(planned)] for step in range(steps)]

    def all_scales(self) -> None:
        """The whole training, once for each factor of the loss."""
        batches = self.batches()
        for scale in self.training.scales:
            self.one_scale(scale, batches)

    def one_scale(self, scale: float, batches: list[Example]) -> None:
        """All steps at one factor of the loss."""
        steps_in_all = len(batches) * len(self.training.scales)
        start = self.pair.point(batches[0]).weights
        weights = dict(start if start is not None else self.pair.given)
        ours = {t.source: weights[t.source] for t in self.trained if t.expected}
        theirs = self._port(weights, moving=True)
        dtype = self.request.dtype
        steppers = {
            (role, kind): self._stepper(role, ours if role == "reference" else theirs, kind)
            for role in ROLES
            for kind in ("float64", dtype)
        }
        shaken = [self._stepper("reference", ours, "float64") for _ in range(DRAWS)]
        record = Record(scale, Series(), Series())
        for number, example in enumerate(batches):
            place = len(self.tally.findings)
            tell("training step", place + 1, steps_in_all)
            gradients, judged = self._gradients(weights, example, scale)
            rates = {r: None if s is None else float(s(number)) for r, s in self._schedules()}
            step = Step({n: weights[n] for n in self.sources}, gradients, rates)
            updates = self._updates(steppers, step)
            jitter = self._jitter(shaken, step, updates["reference", "float64"], number)
            judged += self._judge(step, updates, jitter)
            self._keep(record, step, updates)
            self.tally.add(Finding(example, place, plain_verdict(judged), tuple(judged)))
            for name, change in updates["reference", "float64"].items():
                weights[name] = weights[name] + change
        self.records.append(record)

    def _schedules(self) -> Any:
        return self.training.schedules.items()

    def _stepper(self, role: str, values: Mapping[str, Array], dtype: str) -> Stepper:
        opened = self.pair.reference if role == "reference" else self.pair.port
        return open_stepper(
            opened.side.framework,
            self.training.optimizers[role],
            values,
            dtype=dtype,
            role=role,
        )

    def _port(self, ours: Mapping[str, Array], *, moving: bool = False) -> dict[str, Array]:
        """Arrays of the reference's layout in the port's."""
        return {
            t.link.port: t.link.transform.apply(np.asarray(ours[t.source]))
            for t in self.trained
            if t.moves or not moving
        }

    def _expected(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Those of the parameters that the reference trains."""
        return {t.source: values[t.source] for t in self.trained if t.expected}

    def _gradients(
        self, weights: dict[str, Array], example: Example, scale: float
    ) -> tuple[dict[str, Array], list[Assessment]]:
        """The reference's gradients at these weights, and how the port's differ."""
        pair = self.pair
        rounded = {n: representable(v, self.request.dtype) for n, v in weights.items()}
        given = pair.point(example)
        shared = rounded if pair.share_weights else None
        point = Point(given.inputs, shared, object(), given.rng_seed)
        judged = self.training.loss.prepare(pair, point, example, self.in_training)
        if scale == self.training.scales[0]:
            judged += self._observe(point)
        run = pair.run("reference", point, "double", training=self.in_training)
        gradients = {
            name: scale * run.parameters[f"gradient of {name}"].astype(np.float64)
            for name in self.sources
        }
        return gradients, judged

    def _observe(self, point: Point) -> list[Assessment]:
        """The networks' own differences; what a hair's move takes away is a kink."""
        pair, dtype = self.pair, self.request.dtype
        found = [assess(o, dtype) for o in pair.observe(point, training=self.in_training)]
        wrong = {a.name for a in found if a.verdict != "equivalent"}
        if wrong:
            near = pair.observe(pair.near(point, 1), training=self.in_training)
            still = {o.name for o in near if assess(o, dtype).verdict != "equivalent"}
            found = [a if a.name in still else replace(a, verdict="equivalent") for a in found]
        return found

    def _updates(
        self, steppers: Mapping[tuple[str, str], Stepper], step: Step
    ) -> dict[tuple[str, str], dict[str, Array]]:
        """What each optimizer adds, by role and dtype, in the layout of its role."""
        made = {}
        for (role, dtype), stepper in steppers.items():
            if role == "port":
                weights = self._port(step.weights, moving=True)
                gradients = self._port(step.gradients, moving=True)
            else:
                weights, gradients = self._expected(step.weights), self._expected(step.gradients)
            made[role, dtype] = _update(stepper, gradients, weights, step.rates[role], dtype)
        return made

    def _jitter(
        self, shaken: list[Stepper], step: Step, still: Mapping[str, Array], number: int
    ) -> dict[str, float]:
        """How far the reference's updates move when gradients and weights are rounded."""
        largest = dict.fromkeys(still, 0.0)
        for draw, stepper in enumerate(shaken):
            rng = np.random.default_rng([draw, number, self.request.seed])
            gradients, weights = (
                {n: moved(v, self.request.dtype, rng) for n, v in self._expected(values).items()}
                for values in (step.gradients, step.weights)
            )
            update = _update(stepper, gradients, weights, step.rates["reference"], "float64")
            for name, value in still.items():
                apart = finite_maximum(update[name] - value)
                largest[name] = max(largest[name], apart)
        return largest

    def _judge(
        self,
        step: Step,
        updates: Mapping[tuple[str, str], Mapping[str, Array]],
        jitter: Mapping[str, float],
    ) -> list[Assessment]:
        """One assessment a trained parameter of the port."""
        dtype = self.request.dtype
        judged = []
        for trained in self.trained:
            source, link = trained.source, trained.link

            def of(role: str, kind: str, trained: Trained = trained) -> Array:
                made = updates[role, kind]
                if role == "port" and trained.moves:
                    return made[trained.link.port]
                still = role == "port" or not trained.expected
                value = np.zeros_like(step.weights[trained.source])
                value = value if still else made[trained.source]
                return np.asarray(trained.link.transform.apply(value))

            exact = of("reference", "float64"), of("port", "float64")
            working = of("reference", dtype), of("port", dtype)
            size = finite_maximum(step.weights[source])
            shared = sum(other.source == source for other in self.trained) > 1
            title = f"{trained.title} (the port's {link.port})" if shared else trained.title
            judged.append(
                judge_update(title, exact, working, jitter.get(source, 0.0), size, dtype)
            )
        return judged

    def _keep(
        self, record: Record, step: Step, updates: Mapping[tuple[str, str], Mapping[str, Array]]
    ) -> None:
        weights = self._port(step.weights, moving=True)
        gradients = self._port(step.gradients, moving=True)
        made = updates["reference", "float64"]
        still = {n: np.zeros_like(w) for n, w in step.weights.items()}
        expected = self._port({**still, **made}, moving=True)
        obtained = dict(updates["port", "float64"])
        for role, series, update in (
            ("reference", record.reference, expected),
            ("port", record.port, obtained),
        ):
            series.gradients.append(gradients)
            series.weights.append(weights)
            series.updates.append(update)
            series.rates.append(step.rates[role])

    # Concluding --------------------------------------------------------------------------------

    def conclude(self, blank: Comparison) -> Comparison:
        """Verdict, the odd setting, and the rows."""
        verdict, worst = self.tally.verdict, self.tally.worst()
        assert worst is not None
        rows = self.tally.rows()
        wrong = [row for row in rows if row.verdict == verdict and verdict != "equivalent"]
        networks = [row for row in wrong if row.kind != "update"]
        cause, evidence = None, []
        if networks and networks[0].name.startswith(LOSS_ROW):
            evidence.append(
                f"the losses differ: {networks[0].name} is off by {networks[0].gap:.2g} of its "
                f"largest value, given the same outputs and targets"
            )
        elif networks:
            evidence.append(
                f"the networks themselves differ ({networks[0].name}), whatever the optimizers "
                f"do; compare() says where"
            )
        elif wrong:
            evidence.append(self._told(worst))
            if verdict == "semantic":
                cause, proved = self._explained()
                evidence += proved
        finite = [row for row in rows if np.isfinite(row.gap)]
        inputs = self.pair.plan.arrays(worst.example)
        step = f"{self._where(worst.number)}; {worst.example}"
        shapes = {name: value.shape for name, value in inputs.items()}
        return replace(
            blank,
            verdict=verdict,
            cause=cause,
            evidence=tuple(evidence),
            gap=max((row.gap for row in finite), default=0.0),
            noise=max((row.port_noise for row in finite), default=0.0),
            tensors=rows,
            examples=Examples(
                len(self.tally.findings),
                ExampleRecord(
                    worst.number, step, shapes, None, worst.example.weights, worst.ratio
                ),
            ),
            weights=self.pair.mapping.rows() if self.pair.mapping is not None else (),
            notices=tuple({**self.story.notices, **self.pair.notices}),
        )

    def _where(self, number: int) -> str:
        steps = self.training.steps
        scale = self.training.scales[number // steps]
        return f"step {number % steps + 1}, loss times {scale:g}"

    def _told(self, worst: Finding[Example]) -> str:
        """How the updates part, in one sentence."""
        item = max(
            (a for a in worst.assessments if a.verdict == worst.verdict), key=lambda a: a.severity
        )
        amount = f"differs by {item.gap:.2g} of its largest value"
        if worst.verdict == "precision":
            amount = (
                f"is {item.port_noise:.2g} of its largest value off its own float64 update, the "
                f"reference's {item.reference_noise:.2g}"
            )
        return (
            f"given the same gradients and weights, {item.name} {amount} "
            f"({self._where(worst.number)})"
        )

    def _explained(self) -> tuple[str | None, list[str]]:
        """The odd setting, where one is proved."""
        if not self.request.explain:
            return None, []
        frozen = [t.link.port for t in self.trained if not t.moves]
        loose = [t.link.port for t in self.trained if not t.expected]
        if frozen or loose:
            said = [f"the port does not train {', '.join(frozen)}"] if frozen else []
            also = f"the port trains {', '.join(loose)}, which the reference keeps"
            return None, [*said, also] if loose else said
        rates = [(r.reference.rates, r.port.rates) for r in self.records]
        for number, (ours, theirs) in enumerate(zip(*rates[0], strict=True)):
            if ours != theirs:
                return "optimizer", [
                    f"the learning rate of step {number + 1} is {theirs} in the port, {ours} in "
                    f"the reference"
                ]
        rules = {
            role: self._stepper(
                role,
                {
                    t.source if role == "reference" else t.link.port: np.zeros(1)
                    for t in self.trained
                },
                "float64",
            ).rule()
            for role in ROLES
        }
        found = explain_updates(
            [record.reference for record in self.records],
            [record.port for record in self.records],
            rules["reference"],
            rules["port"],
        )
        if found is None:
            return None, ["no setting of a known optimizer was found that explains it"]
        return ("optimizer" if found.oddities else None), list(found.sentences())


@dataclass(frozen=True)
class Step:
    """What both optimizers are given at one step, in the reference's layout."""

    weights: dict[str, Array]
    gradients: dict[str, Array]
    rates: dict[str, float | None]


def _update(
    stepper: Stepper,
    gradients: Mapping[str, Array],
    weights: Mapping[str, Array],
    rate: float | None,
    dtype: str,
) -> dict[str, Array]:
    """What an optimizer adds to weights that its dtype has exactly."""
    exact = {name: representable(value, dtype) for name, value in weights.items()}
    given = {name: representable(value, dtype) for name, value in gradients.items()}
    after = stepper.step(given, exact, rate)
    return {name: after[name].astype(np.float64) - value for name, value in exact.items()}


def is_trained(parameter: Parameter) -> bool:
    """Whether an optimizer would be given it: torch's frozen ones still have gradients here."""
    return parameter.trainable and not parameter.options.get("frozen", False)


def _rearranges(link: Link, shape: tuple[int, ...], rng: np.random.Generator) -> bool:
    """Whether every element of the port's parameter is one of the reference's."""
    probe = rng.standard_normal(link.transform.apply(np.zeros(shape)).shape)
    (back,) = link.transform.adjoint(probe, shape)
    return bool(np.allclose(link.transform.apply(back), probe, rtol=1e-12, atol=1e-12))
