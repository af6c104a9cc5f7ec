"""The coupled system over ten decades of time: steps, seconds, the ratios it ends at, and what the width costs.

Word co-occurrence with unique random words, n = 60, L = 5, m = 1024, m1 = 32, from S0 t = 0.01 to S0 t = 1e8 in 241 save
points, S0 = |u|^2 at the start. With g_i = 1 / (1 + exp(y_i F_i)) and s_k its sum over class k, the flow of infinite width ends at

    R = (s2 + s3 + s4 - s1) / (s1 - s2) = 1.2687        s1 / s2 = 1.4408

Targets: at most 200 accepted steps; at most 1 s once compiled; both ratios within 0.005 for each of 8 seeds; m = 65536
takes at most 1.2 times as long as m = 128, and so does a step of the exact descent.
"""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

import gradflow
from benchmarks.timing import in_words, interleaved, met, print_table, ratio
from gradflow.dynamics import Trajectory
from gradflow.models import coupled
from gradflow.models.cooccurrence import word_outputs
from gradflow.tasks.cooccurrence import Batch, CoOccurrence, least_vocabulary

N, L, M, M1 = 60, 5, 1024, 32
D = least_vocabulary(N, L)
R_END, S1_OVER_S2_END = 1.2687, 1.4408
SEEDS = 8
ROUNDS = 7


class Problem(NamedTuple):
    """A training set, a start and a width."""

    batch: Batch
    state: coupled.Coupled
    width: coupled.Width


def problem(seed: int, m: int) -> Problem:
    key_data, key_weights = jax.random.split(jax.random.key(seed))
    return Problem(
        CoOccurrence(n=N, L=L, d=D).sample(key_data),
        coupled.draw(key_weights, m=m, m1=M1, d=D, L=L),
        coupled.Width(m, M1),
    )  # fmt: skip


def solve(given: Problem) -> Trajectory:
    batch, state, width = given
    S0 = float(state.S)
    times = gradflow.log_times(1e-2 / S0, 1e8 / S0, 241)
    return gradflow.gradient_flow(coupled.loss, state, batch, width, field=coupled.field, times=times)


def descend(given: Problem) -> Trajectory:
    """Three hundred steps of the exact descent of the weights, to S0 t = 60."""
    batch, state, width = given
    rate = 0.2 / float(state.S)
    return gradflow.descend(
        coupled.loss, state, batch, width, learning_rate=rate, steps=300, save_steps=[0, 300], step=coupled.step
    )


def end_ratios(end: coupled.Coupled, given: Problem) -> tuple[float, float]:
    """R and s1 / s2 of a state."""
    outputs = np.asarray(word_outputs(end.G, end.A, given.batch.tokens, given.width.m))
    g = 1 / (1 + np.exp(np.asarray(given.batch.label) * outputs))
    s1, s2, s3, s4 = np.bincount(np.asarray(given.batch.word_class), weights=g)
    return (s2 + s3 + s4 - s1) / (s1 - s2), s1 / s2


def within(values: np.ndarray, expected: float) -> tuple[str, str, str]:
    """The last columns of a row: the values, what they should be, whether all of them are."""
    return (
        f"{values.min():.4f} to {values.max():.4f}",
        f"{expected} +- 0.005",
        met(abs(values - expected).max() <= 0.005),
    )


def main() -> None:
    gradflow.enable_x64()
    sides = {m: partial(solve, problem(0, m)) for m in (128, M, 65536)}
    seconds = interleaved(sides, ROUNDS)
    steps_of = {m: partial(descend, problem(0, m)) for m in (128, 65536)}
    seconds_of_steps = interleaved(steps_of, ROUNDS)
    problems = [problem(seed, M) for seed in range(SEEDS)]
    runs = [solve(given) for given in problems]
    R, s1_over_s2 = np.array([end_ratios(run.final, given) for run, given in zip(runs, problems, strict=True)]).T
    steps = max(run.cost.accepted for run in runs)
    complete = sum(run.complete for run in runs)
    wider = ratio(seconds[65536], seconds[128])
    wider_steps = ratio(seconds_of_steps[65536], seconds_of_steps[128])
    print_table(
        [
            ("", "measured", "target", ""),
            (f"seeds that ran to the end, of {SEEDS}", str(complete), str(SEEDS), met(complete == SEEDS)),
            ("accepted steps, most of all seeds", str(steps), "<= 200", met(steps <= 200)),
            ("time once compiled, m = 1024", in_words(seconds[M]), "<= 1 s", met(float(np.median(seconds[M])) <= 1)),
            ("R at the end, all seeds", *within(R, R_END)),
            ("s1/s2 at the end, all seeds", *within(s1_over_s2, S1_OVER_S2_END)),
            ("time at m = 65536 / time at m = 128", f"{wider:.2f}", "<= 1.2", met(wider <= 1.2)),
            ("a step of descent, m = 65536", in_words([each / 300 for each in seconds_of_steps[65536]]), "", ""),
            ("the same / at m = 128", f"{wider_steps:.2f}", "<= 1.2", met(wider_steps <= 1.2)),
        ]
    )


if __name__ == "__main__":
    main()
