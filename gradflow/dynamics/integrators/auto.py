"""tsit5 where accuracy limits its steps, rkc2 where stability would: chosen anew after each stretch of save times, and why.

tsit5 is stable for steps up to 3.5 / lambda_max, lambda_max being the largest |eigenvalue| of the field's Jacobian (real and
negative near a minimum). Where its mean step comes near that, stability and not accuracy decides what it costs, and rkc2
goes on. It stays as long as it costs less than tsit5 would at its longest stable steps; a Jacobian-vector product counts as
two evaluations. Where rkc2 did not pay, tsit5 keeps the next stretch to itself, the next time two, then four and so on; where
rkc2 ran out of steps, tsit5 does that stretch again.
"""

from collections.abc import Iterator

from gradflow.dynamics.integrators import Chunk, Problem, diffrax_, stretches

STABLE = 3.5068  # where tsit5's stability polynomial leaves [-1, 1] on the negative real axis
_NEAR = 0.75  # of that: steps that stability limits swing about it, by a safety factor of 0.9 and by rejections
_EVALUATIONS_A_STEP = 6


def solve(problem: Problem, method: str) -> Iterator[Chunk]:
    """Yield the solution chunk by chunk; see `gradflow.dynamics.integrators`."""
    chosen, switched, largest = "tsit5", False, 0.0
    kept_for_tsit5, next_kept = 0, 1  # stretches
    chunk, place = diffrax_.begin(problem, chosen)
    yield chunk._replace(choice=chosen)
    for stretch in stretches(problem.times):
        began = place.t
        chunk, place = diffrax_.advance(problem, chosen, place, stretch)
        wasted = None
        if chunk.failure and chosen == "rkc2":
            wasted, chosen, kept_for_tsit5, next_kept = chunk, "tsit5", next_kept, 2 * next_kept
            chunk, place = diffrax_.advance(problem, chosen, place, stretch)
            chunk = chunk._replace(choice=f"to t = {began:.4g}, then {chosen} (rkc2 needed {wasted.failure})")
        if chunk.failure:
            yield _costing(chunk, wasted)
            return
        better = chosen
        if chosen == "tsit5":
            place, chunk = _measured(problem, place, chunk)
            ratio = float(place.memory.rho) * (place.t - began) / chunk.accepted
            largest = max(largest, ratio)
            why = f"step x lambda_max = {ratio:.2g} of {STABLE:.2g} that tsit5 can take"
            if kept_for_tsit5:
                kept_for_tsit5 -= 1
            elif ratio >= _NEAR * STABLE:
                better = "rkc2"
        else:
            ratio = (chunk.evaluations + 2 * chunk.jvps) / _evaluations_by_tsit5(place.t - began, place.memory.rho)
            why = f"rkc2 cost {ratio:.2g} times what tsit5 would in steps of {STABLE:.2g} / lambda_max"
            if ratio > 1:
                better, kept_for_tsit5, next_kept = "tsit5", next_kept, 2 * next_kept
        if place.t < problem.times[-1] and better != chosen:
            chosen, switched = better, True
            chunk = chunk._replace(choice=f"to t = {place.t:.4g}, then {chosen} ({why})")
        elif place.t == problem.times[-1] and not switched:
            why = f"step x lambda_max <= {largest:.2g} of {STABLE:.2g} that tsit5 can take"
            chunk = chunk._replace(choice=f"throughout ({why})")
        yield _costing(chunk, wasted)


def _measured(problem: Problem, place: diffrax_.Place, chunk: Chunk) -> tuple[diffrax_.Place, Chunk]:
    """The place with lambda_max in its memory, ready for rkc2, and the chunk with what that took."""
    place = diffrax_.with_memory(problem, "rkc2", place)
    work = place.memory.work
    return place, chunk._replace(
        evaluations=chunk.evaluations + int(work.evaluations), jvps=chunk.jvps + int(work.jvps)
    )


def _costing(chunk: Chunk, wasted: Chunk | None) -> Chunk:
    """The chunk, with what an attempt cost that was given up for it."""
    if wasted is None:
        return chunk
    counts = ("evaluations", "accepted", "rejected", "jvps")
    return chunk._replace(**{name: getattr(chunk, name) + getattr(wasted, name) for name in counts})


def _evaluations_by_tsit5(span: float, lambda_max: float) -> float:
    """What tsit5 needs for a span of time in the longest steps that it can take."""
    return _EVALUATIONS_A_STEP * span * float(lambda_max) / STABLE
