"""The four-point flow: dG1 = s1 - s2, dG2 = s1 - s3, dG3 = s1 - s2 - s3 - s4; it ends at (2, 2, -3), s1 : s2 : s3 = 7 : 5 : 5."""

from functools import cache
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._proof import Derivation, NotProved, compare, equation, require_zero
from gradflow.models import coupled
from gradflow.tasks.cooccurrence import MU1, MU2, MU3, Batch, CoOccurrence, least_vocabulary
from gradflow.theory import four_point


class Classes(NamedTuple):
    """The sentence classes I1..I4: how often each holds mu1, mu2, mu3 (rows), its label and its share of the sentences."""

    words: sp.Matrix
    labels: sp.Matrix
    shares: sp.Matrix

    @property
    def signed(self) -> sp.Matrix:
        """y_k x_k, a row per class."""
        return sp.diag(*self.labels) * self.words


@cache
def training_set(n: int, L: int) -> tuple[Batch, int]:
    """Sentences with exact class sizes and no random word twice, and how many words there are."""
    d = least_vocabulary(n, L)
    return CoOccurrence(n, L, d).sample(jax.random.key(0)), d


@cache
def sentence_classes() -> Classes:
    """The class structure, read off a small training set of the task."""
    batch, d = training_set(6, 4)
    counts = np.stack([np.bincount(words, minlength=d)[[MU1, MU2, MU3]] for words in batch.tokens])
    each = [np.unique(np.column_stack([counts, batch.label])[batch.word_class == k], axis=0) for k in range(4)]
    if any(len(rows) != 1 for rows in each):
        raise NotProved("Sentences of one class differ in their fixed words or labels.")
    rows = sp.Matrix(np.vstack(each).astype(int).tolist())
    sizes = np.bincount(batch.word_class).tolist()
    return Classes(rows[:, :3], rows[:, 3], sp.Matrix([sp.Rational(size, 6) for size in sizes]))


def rates_of_words(batch: Batch, d: int, g: list[sp.Expr]) -> sp.Matrix:
    """r(mu) = (1/n) sum of g_i y_i sum_l p_lh over samples i and positions h with x_h = mu, at uniform attention p = 1/L."""
    n, L = batch.tokens.shape
    p, r = sp.ones(L, L) / L, sp.zeros(d, 1)
    for words, y, g_i in zip(batch.tokens.tolist(), batch.label.tolist(), g, strict=True):
        for h, word in enumerate(words):
            r[word] += g_i * int(y) * sum(p[:, h]) / n
    return r


def margins(G: sp.Matrix) -> sp.Matrix:
    """y_k F_k where attention is uniform: every query of L gives each word 1/L, so F adds up the words' G."""
    return sentence_classes().signed * G


def loss(G: sp.Matrix) -> sp.Expr:
    """Population loss, sum over classes of share times log(1 + exp(-margin))."""
    return sentence_classes().shares.dot(margins(G).applyfunc(lambda margin: sp.log(1 + sp.exp(-margin))))


def class_gradients(G: sp.Matrix) -> sp.Matrix:
    """sbar_k = share_k / (1 + exp(margin_k))."""
    return sentence_classes().shares.multiply_elementwise(margins(G).applyfunc(lambda margin: 1 / (1 + sp.exp(margin))))


def velocity(s: sp.Matrix) -> sp.Matrix:
    """dG/dtau for the class gradients s_1..s_4."""
    s1, s2, s3, s4 = s
    return sp.Matrix([s1 - s2, s1 - s3, s1 - s2 - s3 - s4])


def gradient_ratio(s: sp.Matrix) -> sp.Expr:
    """R = -dG3/dG1."""
    return -velocity(s)[2] / velocity(s)[0]


def kernel() -> sp.Matrix:
    """K_kl = y_k y_l x_k.x_l: margins move by K s, and are K alpha in the direction that the duals alpha build."""
    signed = sentence_classes().signed
    return signed * signed.T


def hard_margin(K: sp.Matrix) -> list[sp.Matrix]:
    """Every alpha >= 0 with K alpha >= 1, equality where alpha_k > 0: solved exactly on each set of tight constraints."""
    found = []
    for size in range(1, K.rows + 1):
        for tight in map(list, combinations(range(K.rows), size)):
            alpha = sp.zeros(K.rows, 1)
            for solution in sp.linsolve((K.extract(tight, tight), sp.ones(size, 1))):
                for k, value in zip(tight, solution, strict=True):
                    alpha[k] = value
                optimal = all(value.is_nonnegative for value in [*alpha, *(K * alpha - sp.ones(K.rows, 1))])
                found += [alpha] if optimal and alpha not in found else []
    return found


def late_gradients(R: sp.Expr) -> sp.Matrix:
    """s over s1 - s2 where s2 = s3 and s4 = 0, by the definition of R."""
    return sp.Matrix([2 + R, 1 + R, 1 + R, 0])


def late_ratio_velocity(K: sp.Matrix, R: sp.Symbol) -> sp.Expr:
    """dR/dtau over s1 - s2 at late times, where ds_k/dtau = -s_k (K s)_k, s2 = s3 and s4 is gone."""
    s = sp.Matrix(sp.symbols("s_1:5", positive=True))
    speed = -s.multiply_elementwise(K * s)
    ratio = gradient_ratio(s)
    moved = sum(sp.diff(ratio, s[k]) * speed[k] for k in range(4))
    return sp.factor(moved.subs(dict(zip(s, late_gradients(R), strict=True))))


def derive() -> Derivation:
    """From the classes of the task to the flow, its turning point and where it ends; against theory and the coupled system."""
    classes = sentence_classes()
    shares = classes.shares
    G = sp.Matrix(sp.symbols("G_1:4", real=True))
    s = sp.Matrix(sp.symbols(r"\bar{s}_1:5", positive=True))
    tau, R = sp.Symbol("tau", positive=True), sp.Symbol("R")

    # the flow, as a gradient and from the definition of r
    of_G = class_gradients(G)
    gradient = sp.Matrix([sp.diff(loss(G), each) for each in G])
    require_zero("gradient of the population loss", (gradient + velocity(of_G)).applyfunc(lambda e: e.rewrite(sp.exp)))
    batch, d = training_set(6, 4)
    r = rates_of_words(batch, d, [s[k] / classes.shares[k] for k in batch.word_class.tolist()])
    require_zero("r of the coupled system", r[:3, :] - velocity(s))

    # the one-signal losses turn where R = 1
    dG, margin_speed = velocity(s), classes.signed * velocity(s)
    require_zero("margins move by K s", margin_speed - kernel() * s)
    require_zero("margin of I2", margin_speed[1] - (gradient_ratio(s) - 1) * dG[0])
    require_zero("margin of I3", (margin_speed[2] - margin_speed[1]).subs(s[2], s[1]))

    # the max-margin direction
    K = kernel()
    solutions = hard_margin(K)
    if len(solutions) != 1:
        raise NotProved(f"{len(solutions)} points satisfy the optimality conditions.")
    (alpha,) = solutions
    w = classes.signed.T * alpha
    require_zero("|w|^2 is the sum of the duals", w.dot(w) - sum(alpha), w.dot(w) - (alpha.T * K * alpha)[0])

    # the solution that lies on it: w ln tau + c, the tight margins being ln tau - ln(alpha_k / share_k)
    tight = [k for k in range(4) if alpha[k] != 0]
    offsets = sp.Matrix([-sp.log(alpha[k] / shares[k]) for k in tight])
    c = classes.signed.extract(tight, range(3)).LUsolve(offsets)
    path = w * sp.log(tau) + c
    tail = sp.Matrix([shares[k] * sp.exp(-margins(path)[k]) for k in range(4)])
    require_zero(
        "tight classes on the path", *[sp.powsimp(sp.expand_log(tail[k], force=True)) * tau - alpha[k] for k in tight]
    )
    alone = sp.Matrix([alpha[k] / tau for k in range(4)])
    require_zero("the path solves the flow of the tight classes", sp.diff(path, tau) - velocity(alone))

    # and the ratio's own dynamics
    late = late_gradients(R)
    require_zero("late gradients", gradient_ratio(late) - R, late[0] - late[1] - 1)
    cubic = sp.expand(-late_ratio_velocity(K, R))
    limit = gradient_ratio(alpha)
    fall = K * sp.Matrix([s[0], s[1], s[1], 0])
    require_zero("s1 / s2", fall[1] - fall[0] - (7 * s[1] - 5 * s[0]))
    require_zero("the cubic's factors", cubic - (R - limit) * 2 * (R + 1) * (R + 2))

    rng = np.random.default_rng(0)
    state = rng.normal(size=3)
    S, nothing = 1.7, jnp.zeros((d, d))
    without_random_words = jnp.zeros(d).at[:3].set(state)
    fixed = coupled.Coupled(without_random_words, jnp.array(S), nothing, A=nothing, Gamma_K=nothing, Gamma_Q=nothing)
    dG_of_coupled = jax.jit(coupled.field)(fixed, batch, coupled.Width(2.0, 3.0))[0].G[:3]
    s_of = sp.lambdify([G], of_G)
    numbers = s_of(state)
    derived_velocity = np.asarray(sp.lambdify([s], velocity(s))(numbers.ravel())).ravel()
    many = rng.normal(size=(7, 3))
    ratio_of = sp.lambdify([s], gradient_ratio(s))
    constants = [*w, *alpha, limit, w.dot(w)]
    theirs = [*four_point.MAX_MARGIN_DIRECTION, *four_point.DUALS, four_point.LIMIT_R, four_point.LIMIT_LOSS_TIMES_TAU]

    return Derivation(
        "The four-point flow",
        "Yang et al. (2024), Def. 2.1, Eq. 4; Soudry et al. (2018) for the limit",
        (
            r"With uniform attention $p = 1/L$, no random words and a constant $S$, in the clock $\tau = S t$: the $L$ queries together attend "
            r"once to each word, so $F = \sum_h G(x_h)$ and $r(\mu) = \sum_k \bar s_k\, y_k\, [\mu \in I_k]$, where "
            rf"$\bar s_k = \text{{share}}_k / (1 + e^{{y_k F_k}})$, shares ${', '.join(map(sp.latex, shares))}$. "
            "Written out (and found equal to minus the gradient of the population loss):",
            equation(r"\dot G", velocity(s)),
            r"Let $R = -\dot G_3 / \dot G_1$, on the symmetric line $G_1 = G_2$. The margin $-(G_1 + G_3)$ of $I_2$ moves at "
            r"$(R - 1)\,\dot G_1$, and that of $I_3$ alike: the loss of the sentences with one signal has its peak exactly where $R$ passes $1$ (as $\dot G_1 > 0$).",
            r"The end: $\min |w|^2$ under $y_k\, w \cdot x_k \ge 1$, where $w = \sum_k \alpha_k y_k x_k$ and the margins are $K \alpha$,",
            equation("K", K),
            rf"Of the {2 ** len(alpha) - 1} sets of tight constraints just one has a solution with $\alpha \ge 0$ and $K\alpha \ge 1$ (all solved in rational "
            r"numbers; $|w|^2$ is strictly convex, so no other $w$ can be optimal):",
            equation("w", w.T) + "\n\n" + equation(r"\alpha", alpha.T) + "\n\n" + equation(r"K\alpha", (K * alpha).T),
            rf"Complementarity gives $|w|^2 = \alpha^\top K \alpha = \sum_k \alpha_k = {sum(alpha)}$. On $G = w \ln\tau + c$ with the $c$ for which the "
            r"tight margins are $\ln\tau - \ln(\alpha_k/\text{share}_k)$ their exponential tails are $\bar s_k = \alpha_k/\tau$, which is solved exactly "
            r"by $\dot G = w/\tau$; class $I_4$, with the margin $(K\alpha)_4 \ln\tau$, drops out. So there $\bar s_1 : \bar s_2 : \bar s_3$ "
            rf"is ${' : '.join(map(str, alpha[:3]))}$, "
            rf"$R = {sp.latex(limit)}$ and, the loss being $\sum_k \bar s_k$, $L\,\tau = {sum(alpha)}$.",
            r"The flow tends to this direction (Soudry et al. 2018); the ratios alone show how. Late, $1 - g \to 1$ and $\dot{\bar s}_k = -\bar s_k (K \bar s)_k$ (equations of Lotka and "
            r"Volterra). Where $\bar s_2 = \bar s_3$ and $\bar s_4 = 0$, the definition of $R$ says $\bar s_1 : \bar s_2 = (2 + R) : (1 + R)$, and "
            r"the chain rule leaves a closed equation:",
            equation(r"\dot R", rf"-(\bar s_1 - \bar s_2)\,({sp.latex(cubic)}) = -(\bar s_1 - \bar s_2)\,{sp.latex(sp.factor(cubic))}."),
            r"$R = 3/2$ is its only root above $-1$ and attracts from all of $R > -1$. The roots $-1$ and $-2$ are the edges $\bar s_2 = 0$ and $\bar s_1 = 0$ "
            r"of the positive ratios; "
            r"in $\rho = \bar s_1/\bar s_2$ the same is $\frac{d}{d\tau}\ln\rho = (7 - 5\rho)\,\bar s_2$, and every $\rho > 0$ goes to $7/5$. (The paper's quadratic of Lemma 4.5 becomes this cubic as its coefficients depend on $R$, too: "
            "see the balancing of gradients.)",
        ),
        (
            compare("the gradient of the four-point loss", derived_velocity, -jax.jit(jax.grad(four_point.loss))(jnp.asarray(state))),
            compare("its margins", sp.lambdify([G], margins(G))(state).ravel(), four_point.class_margins(jnp.asarray(state))),
            compare("its loss", [sp.lambdify([G], loss(G))(row) for row in many], jax.jit(jax.vmap(four_point.loss))(many)),
            compare("its R", [ratio_of(s_of(row).ravel()) for row in many], four_point.gradient_ratio(jnp.asarray(many))),
            compare("its constants", constants, theirs),
            compare("the coupled system without random words", S * derived_velocity, dG_of_coupled),
        ),
    )  # fmt: skip
