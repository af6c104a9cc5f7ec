"""The coupled system: the same training trajectory in variables whose size does not depend on the widths m and m1.

Yang et al. (2024), App. C, names the variables; on the words mu_1..mu_d they close (derivatives are d/dt, r and D below):

    variable                      shape     flow                              and of a step of descent, at h^2
    G       = W_V^T u             (d,)      dG       = S r + m1 Gamma_V r     m1 (r.G) r
    S       = |u|^2, u = W^T a    ()        dS       = 2 m1 r.G               m1^2 r.Gamma_V r
    Gamma_V = W_V^T W_V           (d, d)    dGamma_V = r G^T + G r^T          S r r^T
    A       = W_K^T W_Q           (d, d)    dA       = D Gamma_Q + Gamma_K D  D A^T D
    Gamma_K = W_K^T W_K           (d, d)    dGamma_K = A D^T + D A^T          D Gamma_Q D^T
    Gamma_Q = W_Q^T W_Q           (d, d)    dGamma_Q = A^T D + D^T A          D^T Gamma_K D

The loss depends on G and A alone, and r = -dLoss/dG, D = -dLoss/dA are its gradient there, so automatic differentiation
yields both from the d-sized loss. This is exact at every finite width. m enters through the score scale 1/sqrt(m) and m1
through the readout's rate, so the `Width` travels with the data.

Gradient descent closes in these variables, too: each is a product of two weights, which move by h times their velocity,
so a step of learning rate h adds h times the flow's column and h^2 times the last one, and nothing else.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gradflow.errors import require
from gradflow.models.cooccurrence import Weights, entry_scales, logistic, word_outputs
from gradflow.tasks.cooccurrence import Batch


class Width(NamedTuple):
    """Attention width m and number of neurons m1, as traced numbers: another width needs no new compilation."""

    m: float
    m1: float


class Coupled(eqx.Module):
    """State of the coupled system (see the table above)."""

    G: Float[Array, " d"]
    S: Float[Array, ""]
    Gamma_V: Float[Array, "d d"]
    A: Float[Array, "d d"]
    Gamma_K: Float[Array, "d d"]
    Gamma_Q: Float[Array, "d d"]


def reduce(weights: Weights) -> Coupled:
    """The coupled state of some weights."""
    u = weights.u
    return Coupled(
        G=weights.W_V.T @ u,
        S=u @ u,
        Gamma_V=weights.W_V.T @ weights.W_V,
        A=weights.W_K.T @ weights.W_Q,
        Gamma_K=weights.W_K.T @ weights.W_K,
        Gamma_Q=weights.W_Q.T @ weights.W_Q,
    )


def width_of(weights: Weights) -> Width:
    """The width of some weights."""
    m1, m = weights.W.shape
    return Width(float(m), float(m1))


def word_loss(G: Float[Array, " d"], A: Float[Array, "d d"], batch: Batch, width: Width) -> Float[Array, ""]:
    """The loss as a function of the two quantities that determine it."""
    return logistic(word_outputs(G, A, batch.tokens, width.m), batch.label)


def loss(state: Coupled, batch: Batch, width: Width) -> Float[Array, ""]:
    """The empirical loss (Eq. 2) of a coupled state."""
    return word_loss(state.G, state.A, batch, width)


def field(state: Coupled, batch: Batch, width: Width) -> tuple[Coupled, Float[Array, ""]]:
    """Velocity of the coupled state under gradient flow of the weights, and the weights' squared speed -dLoss/dt."""
    r, D = _forces(state, batch, width)
    moving = velocity(state, r, D, width)
    return moving, r @ moving.G + jnp.vdot(D, moving.A)


def second_order(state: Coupled, batch: Batch, width: Width) -> Coupled:
    """What a step of gradient descent of the weights adds at second order in the learning rate (table above)."""
    return bend(state, *_forces(state, batch, width), width)


def step(
    state: Coupled, learning_rate: Float[Array, ""], batch: Batch, width: Width
) -> tuple[Coupled, Float[Array, ""]]:
    """One step of gradient descent of the weights, exact at every width, and |grad Loss|^2; for `descend(step=...)`."""
    r, D = _forces(state, batch, width)
    moving = velocity(state, r, D, width)
    return stepped(state, learning_rate, moving, bend(state, r, D, width)), r @ moving.G + jnp.vdot(D, moving.A)


def _forces(state: Coupled, batch: Batch, width: Width) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """r = -dLoss/dG and D = -dLoss/dA."""
    minus_r, minus_D = jax.grad(word_loss, argnums=(0, 1))(state.G, state.A, batch, width)
    return -minus_r, -minus_D


def velocity(state: Coupled, r: Float[Array, " d"], D: Float[Array, "d d"], width: Width) -> Coupled:
    """The flow's column of the table above, for forces r and D of whatever loss of G and A."""
    S, m1 = state.S, width.m1
    A_DT, AT_D = state.A @ D.T, state.A.T @ D
    r_GT = jnp.outer(r, state.G)
    return Coupled(
        G=S * r + m1 * (state.Gamma_V @ r),
        S=2 * m1 * (r @ state.G),
        Gamma_V=r_GT + r_GT.T,
        A=D @ state.Gamma_Q + state.Gamma_K @ D,
        Gamma_K=A_DT + A_DT.T,
        Gamma_Q=AT_D + AT_D.T,
    )


def bend(state: Coupled, r: Float[Array, " d"], D: Float[Array, "d d"], width: Width) -> Coupled:
    """The last column of the table above: what a step of descent adds at h^2."""
    m1 = width.m1
    return Coupled(
        G=m1 * (r @ state.G) * r,
        S=m1**2 * (r @ state.Gamma_V @ r),
        Gamma_V=state.S * jnp.outer(r, r),
        A=D @ state.A.T @ D,
        Gamma_K=D @ state.Gamma_Q @ D.T,
        Gamma_Q=D.T @ state.Gamma_K @ D,
    )


def powers(state: Coupled, r: Float[Array, " d"], D: Float[Array, "d d"], slope: Float[Array, "d d"], width: Width):
    """|dW|^2, |dW_V|^2, |dW_K|^2 and |dW_Q|^2 under gradient flow (4,): how fast each matrix makes the loss fall; they sum to -dLoss/dt.

    slope is -dLoss/dA, which is D itself but where a number stands for many copies of itself (`models.orbits`).
    """
    W, W_V = width.m1 * (r @ state.Gamma_V @ r), state.S * (r @ r)
    return jnp.stack([W, W_V, jnp.vdot(slope, D @ state.Gamma_Q), jnp.vdot(slope, state.Gamma_K @ D)])


def stepped(state: Coupled, learning_rate: Float[Array, ""], moving: Coupled, bending: Coupled) -> Coupled:
    """The state after a step of descent."""
    return jax.tree.map(lambda y, f, q: y + learning_rate * (f + learning_rate * q), state, moving, bending)


# ---------------------------------------------------------------------------------------------------- initial states


def draw(
    key: PRNGKeyArray, *, m: int, m1: int, d: int, L: int, sigma0: float | None = None, sigma1: float | None = None
) -> Coupled:
    """The coupled state of Gaussian weights, with their exact distribution and without drawing them: O(d^3) at any m.

    A rotation of the m channels changes nothing, so [W_K W_Q] may be replaced by the triangular factor of Bartlett's
    decomposition (1933), and W_V by its form in which u points along the first channel. Scales as in `models.cooccurrence.init`.
    """
    sigma0, sigma1 = _scales(m, m1, d, L, sigma0, sigma1)
    key_S, key_row, key_V, key_KQ = jax.random.split(key, 4)

    S = sigma1**2 * m1 * jax.random.chisquare(key_S, m, dtype=float)
    along_u = sigma0 * jax.random.normal(key_row, (d,))
    across_u = sigma0 * _bartlett_factor(key_V, m - 1, d)
    W_K, W_Q = jnp.split(sigma0 * _bartlett_factor(key_KQ, m, 2 * d), 2, axis=1)
    return Coupled(
        G=jnp.sqrt(S) * along_u,
        S=S,
        Gamma_V=jnp.outer(along_u, along_u) + across_u.T @ across_u,
        A=W_K.T @ W_Q,
        Gamma_K=W_K.T @ W_K,
        Gamma_Q=W_Q.T @ W_Q,
    )


def infinite_width_start(
    *, m: int, m1: int, d: int, L: int, sigma0: float | None = None, sigma1: float | None = None
) -> Coupled:
    """The mean of `draw`, to which it concentrates as m grows: orthogonal columns, no output, uniform attention."""
    sigma0, sigma1 = _scales(m, m1, d, L, sigma0, sigma1)
    gram = sigma0**2 * m * jnp.eye(d)
    return Coupled(
        G=jnp.zeros(d),
        S=jnp.array(sigma1**2 * m * m1, float),
        Gamma_V=gram,
        A=jnp.zeros((d, d)),
        Gamma_K=gram,
        Gamma_Q=gram,
    )


def _scales(m: int, m1: int, d: int, L: int, sigma0: float | None, sigma1: float | None) -> tuple[float, float]:
    """sigma0 and sigma1, each that of the paper where it is None."""
    if sigma0 is None or sigma1 is None:
        paper = entry_scales("paper", m=m, m1=m1, d=d, L=L)
        sigma0 = paper[0] if sigma0 is None else sigma0
        sigma1 = paper[1] if sigma1 is None else sigma1
    return sigma0, sigma1


def _bartlett_factor(key: PRNGKeyArray, m: int, p: int) -> Float[Array, "k p"]:
    """R, upper trapezoidal with k = min(m, p) rows, such that R^T R ~ Wishart_p(I, m): what QR leaves of an m x p Gaussian."""
    rows = min(m, p)
    key_diagonal, key_above = jax.random.split(key)
    diagonal = jnp.sqrt(jax.random.chisquare(key_diagonal, m - jnp.arange(rows), dtype=float))
    above = jnp.triu(jax.random.normal(key_above, (rows, p)), 1)
    return above.at[jnp.arange(rows), jnp.arange(rows)].set(diagonal)


# ---------------------------------------------------------------------------------------------------------- and back


def lift(state: Coupled, start: Weights) -> Weights:
    """The weights at the time of `state` on the gradient flow that began at `start`.

    A coupled state fixes the weights up to a rotation of the m channels. The flow fixes the rotation: u u^T - m1 W_V W_V^T
    and W_K W_K^T - W_Q W_Q^T are conserved matrices in channel space, so they must have the same eigenvectors as at the start,
    up to signs, and each sign is that of the nearer weights. W then follows from u, since it moves along a only:
    W(t) = W(0) + a (u(t) - u(0))^T / m1.

    Possible where these eigenvalues are distinct (almost surely, for random weights) and no channel direction has
    turned by more than a right angle. Raises `InputError` where `state` is on no flow from `start`.
    """
    m1, d = start.W.shape[0], state.G.size
    u_V_gram = jnp.block([[state.S[None, None], state.G[None, :]], [state.G[:, None], state.Gamma_V]])
    K_Q_gram = jnp.block([[state.Gamma_K, state.A], [state.A.T, state.Gamma_Q]])
    u_V = _aligned_factor(
        u_V_gram, jnp.column_stack([start.u, start.W_V]), jnp.concatenate([jnp.ones(1), -jnp.full(d, m1)])
    )
    K_Q = _aligned_factor(
        K_Q_gram, jnp.column_stack([start.W_K, start.W_Q]), jnp.concatenate([jnp.ones(d), -jnp.ones(d)])
    )
    W = start.W + jnp.outer(start.a, u_V[:, 0] - start.u) / m1
    return Weights(W=W, W_V=u_V[:, 1:], W_K=K_Q[:, :d], W_Q=K_Q[:, d:], a=start.a)


def _aligned_factor(
    gram: Float[Array, "p p"], start: Float[Array, "m p"], signature: Float[Array, " p"]
) -> Float[Array, "m p"]:
    """Z with Z^T Z = gram and Z diag(signature) Z^T = start diag(signature) start^T, nearest to `start`."""
    channels, R = jnp.linalg.qr(start)
    rank = R.shape[0]
    size, directions = jnp.linalg.eigh(gram)
    factor = jnp.sqrt(jnp.clip(size[-rank:], 0))[:, None] * directions[:, -rank:].T
    now, rotated = jnp.linalg.eigh((factor * signature) @ factor.T)
    conserved, fixed = jnp.linalg.eigh((R * signature) @ R.T)
    deviation = float(jnp.abs(now - conserved).max() / jnp.abs(conserved).max())
    require(
        deviation < 1e-4,
        f"This state is on no gradient flow from these weights: a conserved matrix differs by {deviation:.1e}.",
    )
    rows, rows_at_start = rotated.T @ factor, fixed.T @ R
    signs = jnp.sign((rows * rows_at_start).sum(axis=1))
    return channels @ (fixed @ (signs[:, None] * rows))
