"""The orbit reduction: what a training set costs that is a hundred thousand times larger, or one of a whole diagram.

Word co-occurrence with unique random words, L = 4, m = 1024, m1 = 32, from the mean start, S0 = |u|^2 there: one flow in 236
numbers from S0 t = 0.01 to S0 t = 1e8 in 241 save points at n = 60 and at n = 6 000 000, and 256 of them as one ensemble.
The coupled system's size is that of the vocabulary, 103 words at n = 60 and 403 at n = 240; it is timed until S0 t = 100.

Targets: an evaluation of the velocity takes at most 1.2 times as long at n = 6 000 000 as at n = 60 (the flow of many samples is
another one, and takes more steps); and at n = 60 all variables agree with the coupled system to 1e-9 of their largest entry.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import gradflow
from benchmarks.timing import in_words, interleaved, met, print_table, ratio
from gradflow.dynamics import Trajectory
from gradflow.dynamics.ensemble import ensemble_flow
from gradflow.models import coupled, orbits
from gradflow.models.coupled import Coupled, Width
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

L, M, M1 = 4, 1024, 32
MANY = 6_000_000
MEMBERS = 256
ROUNDS = 7
WHOLE, SHORT = gradflow.log_times(1e-2 / M, 1e8 / M, 241), gradflow.log_times(1e-2 / M, 100 / M, 81)  # S0 = M


def start(d: int) -> Coupled:
    return coupled.infinite_width_start(m=M, m1=M1, d=d, L=L)


def of_orbits(n: float, times: np.ndarray, **options) -> Trajectory:
    return gradflow.gradient_flow(
        orbits.loss, start(orbits.WORDS), orbits.classes(n, L), Width(M, M1), times=times, field=orbits.field, **options
    )


def of_words(n: int, times: np.ndarray, **options) -> Trajectory:
    d = least_vocabulary(n, L)
    batch = CoOccurrence(n, L, d).sample(jax.random.key(0))
    return gradflow.gradient_flow(
        coupled.loss, start(d), batch, Width(M, M1), times=times, field=coupled.field, **options
    )


def together() -> Trajectory:
    """Numbers of samples from 60 to `MANY`, at once."""
    n = 6 * np.round(np.geomspace(10, MANY / 6, MEMBERS))
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (MEMBERS, *leaf.shape)), start(orbits.WORDS))
    width = Width(np.full(MEMBERS, float(M)), np.full(MEMBERS, float(M1)))
    return ensemble_flow(
        orbits.loss, states, orbits.classes(n, L), width, units=np.ones(MEMBERS), times=WHOLE, field=orbits.field,
        save=losses,
    )  # fmt: skip


def losses(states, units, sizes, width):
    return jax.vmap(orbits.loss)(states, sizes, width)


def apart(n: int) -> float:
    """Largest difference of the two routes at S0 t = 100, relative to each variable's largest entry."""
    tight = dict(method="dopri8", rtol=1e-11)
    words, few = of_words(n, SHORT, **tight).final, of_orbits(n, SHORT, **tight).final
    d = words.G.size
    expanded = orbits.expand(few, CoOccurrence(n, L, d).sample(jax.random.key(0)), d)
    pairs = zip(jax.tree.leaves(words), jax.tree.leaves(expanded), strict=True)
    return max(float(abs(one - other).max() / abs(one).max()) for one, other in pairs)


def main() -> None:
    gradflow.enable_x64()
    seconds = interleaved({n: partial(of_orbits, n, WHOLE) for n in (60, MANY)}, ROUNDS)
    short = interleaved(
        {
            "orbits": partial(of_orbits, 240, SHORT),
            **{n: partial(of_words, n, SHORT) for n in (60, 240)},
        },
        2,
    )
    (all_at_once,) = interleaved({"together": together}, 3).values()
    evaluations = {n: of_orbits(n, WHOLE).cost.evaluations for n in seconds}
    larger, difference = ratio(seconds[MANY], seconds[60]), apart(60)
    each = larger * evaluations[60] / evaluations[MANY]
    members = [spent / MEMBERS for spent in all_at_once]
    print_table(
        [
            ("", "measured", "target", ""),
            ("an orbit flow at n = 60, once compiled", in_words(seconds[60]), "", ""),
            (f"the same at n = {MANY} / at n = 60", f"{larger:.2f}", "", ""),
            ("an evaluation of either, the same", f"{each:.2f}", "<= 1.2", met(each <= 1.2)),
            (f"a member of an ensemble of {MEMBERS}", in_words(members), "", ""),
            ("the coupled system at n = 60, to S0 t = 100", in_words(short[60]), "", ""),
            ("the same at n = 240", in_words(short[240]), "", ""),
            ("its orbits at n = 240", in_words(short["orbits"]), "", ""),
            (
                "largest relative difference of the two at n = 60",
                f"{difference:.1e}",
                "<= 1e-9",
                met(difference <= 1e-9),
            ),
        ]
    )


if __name__ == "__main__":
    main()
