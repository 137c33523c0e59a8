"""Names a cause where a repair proves it, and goes on behind the repaired place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import thread_time

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter, Recorded
from pytest_fwcompare.diagnose import BufferChange, Diagnosis
from pytest_fwcompare.diagnose.beside import Repaired, gradients_beside
from pytest_fwcompare.diagnose.changed import changed_operation
from pytest_fwcompare.diagnose.graph import Graph, common_ancestor
from pytest_fwcompare.diagnose.locate import FINE, Sides
from pytest_fwcompare.diagnose.operations import Operation, normalised
from pytest_fwcompare.diagnose.operations.elementwise import BINARY_NAMES
from pytest_fwcompare.diagnose.operations.recurrent import GATES
from pytest_fwcompare.diagnose.prove import Candidate, Proof, Prover
from pytest_fwcompare.diagnose.repairs import Spot, candidates
from pytest_fwcompare.diagnose.replay import Replay

BUDGET_S = 40.0
"""Seconds after which no further repairs are tried; of this thread's processor time, so that a
busy machine gives up nothing."""

FURTHER_S = 10.0
"""Seconds for further differences, once the first is explained."""

EXACT = 1e-11
"""Differences below this are rounding: none of them is better than another."""

ENOUGH = 4
"""Values found in the port that settle a repair where its output is far."""

SUSPECTS = 8
"""Near misses that are looked at."""

EARLIER = 24
"""Operations before a culprit among which rearrangements are tried last."""

BEHIND = 8
"""Operations behind a culprit that are looked at: a softmax over segments is written in seven."""

SMALL = 1e-4
"""A gap below this may be the grown trace of a smaller one."""

RANK = 5
"""Axes up to which all orders of them are tried."""

FAULTS = 6
"""Independent differences that are searched for."""


@dataclass(frozen=True)
class Walk:
    """The differences of the forward passes, and both passes with these repaired."""

    found: list[Diagnosis]
    repaired: Repaired


def explain(
    reference_records: Sequence[Recorded],
    port_records: Sequence[Recorded],
    *,
    reference_parameters: Mapping[str, Array],
    reference_layers: Sequence[Parameter],
    parameter_gradient_mismatch: Mapping[str, tuple[Array, Array]] | None,
    buffer_mismatch: Mapping[str, BufferChange],
    reference_outputs: Mapping[str, Array],
    port_outputs: Mapping[str, Array],
    port_working_outputs: Mapping[str, Array],
    verdict: str,
    sides: Sides | None = None,
    gradients_in_doubt: Callable[[], bool],
) -> Diagnosis:
    """See `pytest_fwcompare.diagnose.diagnose`."""
    from pytest_fwcompare.diagnose.arranged import explain_arrangement
    from pytest_fwcompare.diagnose.gradients import explain_gradients
    from pytest_fwcompare.diagnose.precision import explain_precision
    from pytest_fwcompare.diagnose.statistics import buffers_beside, explain_buffers

    sides = sides or Sides(
        reference_records,
        port_records,
        reference_parameters=reference_parameters,
        reference_outputs=reference_outputs,
        port_outputs=port_outputs,
    )
    if verdict == "subgradient":
        from pytest_fwcompare.diagnose.kinks import explain_kinks

        if kinks := explain_kinks(sides):
            return replace(kinks[0], others=tuple(kinks[1:]))
    deadline = thread_time() + BUDGET_S
    walk = _in_loops(sides, deadline) or forward(sides, deadline)
    found = walk.found
    if not found and verdict == "semantic":
        found = explain_arrangement(sides, reference_outputs, port_outputs, deadline)
    if not found or found[0].cause is None:
        found = [*_suspects(sides, found, deadline), *found]
    if found and found[0].cause is None and found[0].local_gap < SMALL:
        # A smaller fault before it may have grown until it passed the tolerance here.
        found = _finer(sides, deadline) or found
    if verdict in ("precision", "nonfinite"):
        # The function is the same, so what differs in float64 is beside the point unless proved.
        proved = [diagnosis for diagnosis in found if diagnosis.cause is not None]
        found = proved or explain_precision(sides, port_working_outputs, verdict) or found
    if not found and buffer_mismatch and not parameter_gradient_mismatch:
        found = explain_buffers(sides, buffer_mismatch, reference_layers)
    if not found:
        found = explain_gradients(sides, parameter_gradient_mismatch, reference_layers)
        if found and found[0].cause is None:
            # Gradients may part because of a forward difference that sums have hidden.
            found = _finer(sides, deadline) or found
    if not found:
        found = explain_buffers(sides, buffer_mismatch, reference_layers)
    found = found or _finer(sides, deadline)
    if not found:
        return Diagnosis()
    first = united(found, sides)
    others = found[1:]
    if walk.found and verdict == "semantic":
        # What differs behind the repairs of the forward pass is a fault of its own.
        deadline = min(deadline, thread_time() + FURTHER_S)
        if gradients_in_doubt():
            others += gradients_beside(
                walk.repaired, parameter_gradient_mismatch, reference_layers, deadline
            )
        others += buffers_beside(walk.repaired, buffer_mismatch, reference_layers)
    elif found[0].backward:
        others += explain_buffers(sides, buffer_mismatch, reference_layers)
    return replace(first, others=tuple(others))


def _in_loops(sides: Sides, deadline: float) -> Walk | None:
    """Differences that lie in loops over steps, where those are read as recurrent layers.

    A port may run the steps in a loop of its framework's, which shows none of them.
    """
    rolled = sides.rolled() if sides.culprits() else None
    if rolled is None:
        return None
    walk = forward(rolled, deadline)
    proved = all(diagnosis.cause is not None for diagnosis in walk.found)
    return walk if proved and any(d.operation in GATES for d in walk.found) else None


def _suspects(sides: Sides, found: Sequence[Diagnosis], deadline: float) -> list[Diagnosis]:
    """The first near miss that a repair explains: its difference fades behind it.

    Where none is explained, one that differs far more than the culprits found is more likely
    where the difference begins.
    """
    plain: list[Diagnosis] = []
    asked = set(sides.culprits())
    for place in [p for p in sides.near_misses() if p not in asked][:SUSPECTS]:
        diagnosis, success = explain_place(sides, place, deadline)
        if success is not None and not success.proof.alone:
            return [diagnosis]
        plain.append(replace(diagnosis, cause=None, evidence=()))
        if thread_time() > deadline:
            break
    return [d for d in plain[:1] if found and d.local_gap > 10 * found[0].local_gap]


def _finer(sides: Sides, deadline: float) -> list[Diagnosis]:
    """Differences below the usual tolerance. Rounding reaches them, so only proved ones count."""
    for tolerance in FINE:
        walk = forward(sides.at(tolerance), deadline)
        found = [diagnosis for diagnosis in walk.found if diagnosis.cause is not None]
        if found:
            return found
    return []


def forward(sides: Sides, deadline: float = float("inf")) -> Walk:
    """Differences of the forward passes, in data-flow order, each repaired before the next."""
    before, operations = sides, dict[int, Operation]()
    found: dict[int, tuple[Diagnosis, Success | None]] = {}
    done: set[int] = set()
    taken: set[int] = set()
    while len(found) < FAULTS:
        open_places = [place for place in sides.culprits() if place not in done]
        # A port has other ways to come to its constants: what inputs go into is asked first.
        # And it may add up in another order: a part of a longer sum is asked last.
        fed = sides.fed
        open_places.sort(key=lambda p: (_is_part_of_sum(sides.graph, p), p not in fed, p))
        if found and thread_time() > deadline:
            break
        if not open_places:
            # Behind what no repair explains the search goes on with the port's own values.
            unproved = (p for p, f in found.items() if f[1] is None and p not in taken)
            place = next(unproved, -1)
            if place < 0:
                break
            taken.add(place)
            own = port_values(sides, place)
            sides = sides if own is None else sides.repaired(own, [place])
            continue
        place = open_places[0]
        done.add(place)
        diagnosis, success = explain_place(sides, place, deadline)
        found[place] = diagnosis, success
        if success is not None:
            values = dict(success.spot.replay.run(success.candidate.values))
            sides = sides.repaired(values, success.candidate.values)
            spot, candidate = success.spot, success.candidate
            changed = changed_operation(spot.place, spot.operation, candidate)
            if changed is not None:
                operations[spot.place] = changed
            deadline = min(deadline, thread_time() + FURTHER_S)
            # What is right once another place is repaired was no culprit.
            found = {
                p: f
                for p, f in found.items()
                if f[1] is not None or p in taken or not sides.right[p]
            }
    rows = list(found.values())
    alone = [success is not None and success.proof.alone for _, success in rows]
    made = _followed([diagnosis for diagnosis, _ in rows], alone)
    places = {success.spot.place for _, success in rows if success is not None}
    whole = len(places) == len(rows) and places <= operations.keys()
    return Walk(made, Repaired(sides, before, operations, whole))


def port_values(sides: Sides, place: int) -> dict[int, Array] | None:
    """What the port has instead of a value, and what the reference makes of that behind it.

    Args:
        sides: both passes, aligned.
        place: a culprit.

    Returns:
        New values by position, the port's own at `place`, in an order of axes with which more
        than one of those behind it are the port's, too; None where no tensor of the port is so.
    """
    replay = Replay(sides.graph)
    prover = Prover(sides, replay, place)
    value = sides.graph.records[place].value
    for target in prover.targets(value):
        for axes in itertools.permutations(range(target.ndim)) if target.ndim <= RANK else ():
            turned = target.transpose(axes)
            if turned.shape != value.shape:
                continue
            candidate = Candidate("", "the port's own value", {place: turned}, weak=True)
            proof = prover.prove(candidate)
            if proof is not None and not proof.alone and proof.hits > 2:
                return dict(replay.run(candidate.values))
    return None


def _is_part_of_sum(graph: Graph, place: int) -> bool:
    """Whether an operation adds, and its result goes into nothing but another addition."""
    places = [place, *graph.consumers[place]]
    names = [BINARY_NAMES.get(normalised(graph.records[p].operation)) for p in places]
    return len(places) > 1 and set(names) == {"add"}


def _followed(found: Sequence[Diagnosis], alone: Sequence[bool]) -> list[Diagnosis]:
    """The diagnoses, without the causes that nothing behind them confirms."""
    made: list[Diagnosis] = []
    confirmed = False
    for diagnosis, single in zip(reversed(found), reversed(alone), strict=True):
        if single and not confirmed:
            tried = (*diagnosis.tried, *diagnosis.evidence)
            diagnosis = replace(diagnosis, cause=None, evidence=(), tried=tried)
        confirmed = diagnosis.cause is not None
        made.append(diagnosis)
    return made[::-1]


@dataclass(frozen=True)
class Success:
    """A repair that is proved, and where it was made."""

    spot: Spot
    candidate: Candidate
    proof: Proof

    @property
    def lonely(self) -> bool:
        """Whether nothing but the changed value itself was found."""
        return (self.proof.hits < 2 and not self.proof.to_output) or self.proof.alone

    @property
    def weak(self) -> bool:
        """Whether something that another repair may explain is left."""
        return self.candidate.fitted or self.doubtful or self.proof.disordered

    @property
    def settled(self) -> bool:
        """Whether there is no reason to look further."""
        return not (self.lonely or self.candidate.fitted or self.proof.disordered)

    @property
    def doubtful(self) -> bool:
        """Whether what was found is in right ports as well, and nothing comes of it."""
        return self.candidate.weak and self.proof.alone

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, int, float]:
        """Repairs that explain more are preferred, then those that explain it more exactly.

        A number that had to be solved for is a weaker reason than a change without one.
        """
        proof = self.proof
        plain = not self.candidate.fitted
        found = proof.to_output, not proof.disordered, not proof.alone
        return *found, plain, proof.hits, -max(proof.after, EXACT)


def explain_place(
    sides: Sides, place: int, deadline: float = float("inf")
) -> tuple[Diagnosis, Success | None]:
    """One culprit with its cause, if a repair proves one."""
    replay = Replay(sides.graph)
    prover = Prover(sides, replay, place)
    location = sides.location(place)
    tried: list[str] = []
    success: Success | None = None
    tries = list(spots(sides, replay, prover, place))
    earlier = sides.graph.upstream([place])
    for spot, late in [*((spot, False) for spot in tries), *((spot, True) for spot in tries)]:
        weak = success is None or success.weak
        # What the port also computes on its way: a softmax taken for its logarithm, say.
        passing = success is not None and success.proof.alone and late and spot.place == place
        # Or has by coincidence: what comes before may explain that, and what follows too.
        before = success is not None and success.proof.alone and spot.place in earlier and not late
        if not (weak or passing or before) and (late or spot.operation.kind != "movement"):
            continue
        made = _try_all(place, spot, late, tried, deadline)
        if made is not None and (success is None or made.rank > success.rank):
            success = made
        # A single value found may be half of the truth: two parts exchanged, each taken for
        # another function. The order of what comes in is asked, too.
        if (success is not None and success.settled) or thread_time() > deadline:
            break
    plain = Diagnosis(
        culprit=location.culprit,
        between=location.between,
        operation=location.operation,
        port_culprit=location.port_culprit,
        port_operation=location.port_operation,
        local_gap=float(location.gap),
        tried=tuple(dict.fromkeys(tried)),
    )
    if success is None:
        return plain, None
    return _proved(sides, plain, success), success


def _try_all(
    place: int, spot: Spot, late: bool, tried: list[str], deadline: float
) -> Success | None:
    """The repair at a spot that explains most of what differs at a place; the first of equals."""
    best: Success | None = None
    # What is wrong before may be made up for by a number that nobody would write.
    behind = place != spot.place and place in spot.graph.upstream([spot.place])
    for candidate in candidates(spot, late):
        if behind and candidate.fitted:
            continue
        proof = spot.prover.prove(candidate)
        if proof is None:
            tried.append(candidate.change)
        else:
            made = Success(spot, candidate, proof)
            if best is None or made.rank > best.rank:
                best = made
            enough = proof.to_output or proof.hits > ENOUGH
            odd = proof.beside or proof.disordered
            if proof.after <= EXACT and enough and not odd:
                break
        if thread_time() > deadline:
            break
    return best


def _proved(sides: Sides, plain: Diagnosis, success: Success) -> Diagnosis:
    """The diagnosis with its cause, placed where the repair was made."""
    candidate, proof, graph = success.candidate, success.proof, sides.graph
    places = list(candidate.places or [success.spot.place])
    location = sides.location(places[0], places)
    culprit, between = location.culprit, location.between
    if candidate.culprit is not None:
        culprit, between = candidate.culprit
    seen = graph.records[proof.place]
    where = f"{seen.operation} of {seen.path or 'the root'}"
    falls = f"the difference at {where} falls from {proof.before:.1e} to {proof.after:.1e}"
    if not np.isfinite(proof.before):
        falls = f"{where} is found in the port (difference {proof.after:.1e}); without it, nothing"
    evidence = [f"with {candidate.change} {falls}"]
    if proof.to_output and not proof.disordered:
        evidence.append("so changed, the reference gives the port's output")
    elif proof.hits > 1:
        evidence.append(f"so changed, {proof.hits} values of the reference are found in the port")
    if proof.port_index >= 0:
        port = sides.port.records[proof.port_index]
    else:
        found = sides.port_record(proof.values[proof.place])
        port = found if found is not None else seen
    return replace(
        plain,
        culprit=culprit,
        between=between,
        operation=graph.records[places[0]].operation,
        port_culprit=port.path,
        port_operation=port.operation,
        cause=candidate.cause,
        evidence=tuple(evidence),
    )


def spots(sides: Sides, replay: Replay, prover: Prover, place: int) -> Iterator[Spot]:
    """Places where the fault may lie: the culprit, what arranged its inputs, what follows.

    A value that is only rearranged wrongly is found in the port as a set, so the fault lies
    before the first result that is missing. And where the port fuses operations, the first
    missing one may be right.
    """
    passive = _upstream(sides, replay, place)
    location_path = sides.graph.records[place].path
    chain = [place, *passive, *_following(sides, place)]
    # A port may compute the right value and then something more, so that it is found.
    makers = {s for spot in [place, *passive] for s in sides.graph.inputs[spot]}
    # A bias that is added on the way hides the product.
    makers |= {
        s
        for maker in makers
        if sides.graph.records[maker].parameters and replay.kind(maker) == "arithmetic"
        for s in sides.graph.inputs[maker]
    }
    chain += [maker for maker in sorted(makers, reverse=True) if maker not in chain]
    # A rearrangement may stay unseen through products and sums that are symmetric in it.
    earlier = sorted(sides.graph.upstream([place]), reverse=True)[:EARLIER]
    # Those of the same module first: places of a window are right as long as none is mixed.
    near = sorted(earlier, key=lambda spot: sides.graph.records[spot].path != location_path)
    chain += [s for s in near if s not in chain and _rearranges(replay, s)]
    for where in chain:
        operation = replay.operation(where)
        if operation is not None:
            yield Spot(where, operation, sides, replay, prover)


def _rearranges(replay: Replay, place: int) -> bool:
    """Whether an operation moves elements, or lays channels of several groups in an order."""
    operation = replay.operation(place)
    if operation is None:
        return False
    grouped = "convolution" in operation.kind and int(operation.options.get("groups") or 1) > 1
    return operation.kind == "movement" or grouped


def _upstream(sides: Sides, replay: Replay, place: int) -> list[int]:
    """Operations before `place` that only move elements or hand them on, nearest first."""
    found: list[int] = []
    front = [place]
    while front and len(found) < 16:
        following = []
        for spot in front:
            for source in sides.graph.inputs[spot]:
                passive = replay.kind(source) == "movement" or replay.is_identity(source)
                # Scores that a mask or a scale reached unseen, since their values tell nothing.
                silent = not sides.telling(source)
                if source not in found and (passive or silent):
                    found.append(source)
                    following.append(source)
        front = following
    return found


def _following(sides: Sides, place: int) -> list[int]:
    """Wrong operations after `place` that depend on it, the next few."""
    after = sorted(sides.graph.downstream([place]) - {place})
    return [spot for spot in after if not sides.right[spot]][:BEHIND]


def united(found: Sequence[Diagnosis], sides: Sides) -> Diagnosis:
    """The first difference; their container where all its layers of a kind share the fault."""
    first = found[0]
    alike = [d for d in found if d.cause == first.cause and d.operation == first.operation]
    if first.cause is None or len(alike) < 2:
        return first
    paths = [d.culprit for d in alike if d.culprit is not None]
    holder = common_ancestor(paths)
    for count in range(len(paths), 1, -1):
        holder = common_ancestor(paths[:count])
        if holder and holder not in paths:
            break
    else:
        return first
    inside = {
        record.path
        for record in sides.graph.records
        if record.operation == first.operation and record.path.startswith(holder + ".")
    }
    run = {record.path for record in sides.graph.modules}
    if not inside <= set(paths) or (run and holder not in run):
        # A mere list of layers computes nothing that could be wrong.
        return first
    members = [d for d in alike if (d.culprit or "").startswith(holder + ".")]
    evidence = dict.fromkeys(text for d in members for text in d.evidence)
    return replace(first, culprit=holder, between=None, evidence=tuple(evidence))
