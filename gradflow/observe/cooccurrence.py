"""Everything that is looked at on the word co-occurrence task, as one labelled dataset for flows and descents alike.

`Observer` measures one state during a solve (give it as `save=`), so that a long run need not keep its weights.
`dataset` turns the trajectory into an xarray Dataset with units and long names; claims, figures and stored files use it.
Yang et al. (2024): scores and Gram matrices as in App. C; g_i and s_k as in Lemmas 4.4, 4.5.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from scipy.special import expit

from gradflow.dynamics.sharpness import sharpness
from gradflow.dynamics.trajectory import Trajectory
from gradflow.models import coupled
from gradflow.models.cooccurrence import Weights, attention, word_outputs
from gradflow.models.cooccurrence import loss as training_loss
from gradflow.models.coupled import Coupled, Width
from gradflow.tasks.cooccurrence import CLASS_NAMES, Batch

SIGNALS = slice(0, 3)
WORD_NAMES = ("mu1", "mu2", "mu3")
WORD_KINDS = (*WORD_NAMES, "random")


class Observer(eqx.Module):
    """Measures a state of either model: `observer(weights, batch)` or `observer(state, batch, width)`.

    `initial` is the coupled state at the start, from which changes are taken; `held_out` fresh sentences for the
    generalisation loss. With `sharpness`, that of the training loss is measured too (weights only; 16 Hessian-vector products a save).
    """

    initial: Coupled
    held_out: Batch
    sharpness: bool = eqx.field(static=True, default=False)

    def __call__(self, state: Weights | Coupled, batch: Batch, width: Width | None = None) -> dict[str, Array]:
        sharp = {"sharpness": sharpness(training_loss, state, batch)} if self.sharpness else {}
        if isinstance(state, Weights):
            width, state = coupled.width_of(state), coupled.reduce(state)
        initial, L = self.initial, batch.tokens.shape[1]
        velocity, squared_speed = coupled.field(state, batch, width)
        p = attention(state.A, batch.tokens, width.m)
        output = word_outputs(state.G, state.A, batch.tokens, width.m)
        change_A = jnp.abs(state.A - initial.A)
        return {
            "G": state.G,
            "S": state.S,
            "A": state.A[SIGNALS, SIGNALS],
            "Gamma_V": state.Gamma_V[SIGNALS, SIGNALS],
            "Gamma_K": state.Gamma_K[SIGNALS, SIGNALS],
            "Gamma_Q": state.Gamma_Q[SIGNALS, SIGNALS],
            "dG": velocity.G[SIGNALS],
            "dA": velocity.A[SIGNALS, SIGNALS],
            "dGamma_V": velocity.Gamma_V[SIGNALS, SIGNALS],
            "squared_speed": squared_speed,
            "readout_rate": _readout_rate(state, batch, width),
            "margin": batch.label * output,
            "attention": _mean_attention(p, batch),
            "attention_deviation": jnp.abs(p - 1 / L).max(),
            "change_attention": jnp.abs(p - attention(initial.A, batch.tokens, width.m)).max(),
            "change_A": change_A.max(),
            "change_A_random": change_A.at[SIGNALS, SIGNALS].set(0).max(),
            "change_Gamma_K": jnp.abs(state.Gamma_K - initial.Gamma_K).max(),
            "change_Gamma_Q": jnp.abs(state.Gamma_Q - initial.Gamma_Q).max(),
            "change_Gamma_V": jnp.abs(state.Gamma_V - initial.Gamma_V).max(),
            "generalisation_loss": coupled.loss(state, self.held_out, width),
            **sharp,
        }


def _readout_rate(state: Coupled, batch: Batch, width: Width) -> Float[Array, ""]:
    """S + m1 r.Gamma_V r / r.r: the rate at which G moves along its own loss gradient r (S at infinite width)."""
    r = jax.grad(coupled.word_loss)(state.G, state.A, batch, width)
    return state.S + width.m1 * (r @ state.Gamma_V @ r) / (r @ r)


def _mean_attention(p: Float[Array, "n L L"], batch: Batch) -> Float[Array, "4 4 4"]:
    """Mean attention weight in each sentence class between kinds of words (mu1, mu2, mu3, random); NaN where none meet."""
    kind_ih = jnp.minimum(batch.tokens, 3)
    of_kind = kind_ih[:, :, None] == jnp.arange(4)
    in_class = batch.word_class[:, None] == jnp.arange(4)
    total = jnp.einsum("ic,ihk,ihl,ilq->ckq", in_class * 1.0, of_kind * 1.0, p, of_kind * 1.0)
    pairs = jnp.einsum("ic,ihk,ilq->ckq", in_class * 1.0, of_kind * 1.0, of_kind * 1.0)
    return jnp.where(pairs > 0, total / jnp.maximum(pairs, 1), jnp.nan)


# ------------------------------------------------------------------------------------------------------- labelled data

_BLOCK = ("time", "key_signal", "query_signal")
_GRAM = ("time", "signal", "other_signal")
_LONG_NAMES = {
    "G": (("time", "word"), "linear MLP output of a word, G(mu) = sum_j a_j w_j^T W_V mu"),
    "S": (("time",), "squared length of the readout, S = |W^T a|^2"),
    "A": (_BLOCK, "attention scores before scaling, mu_key^T W_K^T W_Q mu_query"),
    "Gamma_V": (_GRAM, "mu^T W_V^T W_V nu"),
    "Gamma_K": (_GRAM, "mu^T W_K^T W_K nu"),
    "Gamma_Q": (_GRAM, "mu^T W_Q^T W_Q nu"),
    "dG": (("time", "signal"), "dG/dt along gradient flow from this state"),
    "dA": (_BLOCK, "dA/dt along gradient flow from this state"),
    "dGamma_V": (_GRAM, "dGamma_V/dt along gradient flow from this state"),
    "squared_speed": (("time",), "|d weights/dt|^2 = -dLoss/dt of gradient flow from this state"),
    "readout_rate": (("time",), "rate at which G moves along its loss gradient, S + m1 r.Gamma_V r / r.r"),
    "margin": (("time", "sample"), "y_i F_i"),
    "attention": (("time", "sentence_class", "key_kind", "query_kind"), "mean attention weight between kinds of words"),
    "attention_deviation": (("time",), "largest |p - 1/L|"),
    "change_attention": (("time",), "largest |p(t) - p(0)|"),
    "change_A": (("time",), "largest |A(t) - A(0)|"),
    "change_A_random": (("time",), "largest |A(t) - A(0)| that involves a random word"),
    "change_Gamma_K": (("time",), "largest |Gamma_K(t) - Gamma_K(0)|"),
    "change_Gamma_Q": (("time",), "largest |Gamma_Q(t) - Gamma_Q(0)|"),
    "change_Gamma_V": (("time",), "largest |Gamma_V(t) - Gamma_V(0)|"),
    "generalisation_loss": (("time",), "loss on fresh sentences of the data distribution"),
    "sharpness": (("time",), "largest eigenvalue of the training loss's Hessian"),
}


def dataset(trajectory: Trajectory, batch: Batch, initial: Coupled, width: Width, **attributes: object) -> xr.Dataset:
    """A trajectory whose `save` was an `Observer`, as a Dataset with everything needed to check it from outside.

    Words are numbered from 0: mu1, mu2, mu3, random. Time is that of gradient flow (learning_rate * step for descents).
    Everything is dimensionless, time in units of 1 / (loss gradient). `attributes` become global attributes.
    """
    seen = trajectory.states
    g_i = expit(-seen["margin"])
    in_class = np.asarray(batch.word_class)[:, None] == np.arange(4)
    s = g_i @ in_class
    loss_i = np.logaddexp(0, -seen["margin"])
    with np.errstate(divide="ignore", invalid="ignore"):  # s1 = s2, or gradients that underflow: inf and NaN say so
        spread = np.stack([g_i[:, members].max(axis=1) / g_i[:, members].min(axis=1) for members in in_class.T], axis=1)
        ratios = {
            "R": ((s[:, 1] + s[:, 2] + s[:, 3] - s[:, 0]) / (s[:, 0] - s[:, 1]), "(s2 + s3 + s4 - s1) / (s1 - s2)"),
            "s1_over_s2": (s[:, 0] / s[:, 1], "s1 / s2"),
            "s2_over_s3": (s[:, 1] / s[:, 2], "s2 / s3"),
        }
    measured = {name: (dims, seen[name], long_name) for name, (dims, long_name) in _LONG_NAMES.items() if name in seen}
    variables = measured | {
        "loss": (("time",), trajectory.loss, "training loss (Eq. 2)"),
        "energy_residual": (("time",), trajectory.energy_residual, "L(0) - L(t) - int |grad L|^2 dt"),
        "loss_by_class": (("time", "sentence_class"), loss_i @ in_class / in_class.sum(0), "mean loss of a class"),
        "gradient_by_class": (("time", "sentence_class"), s, "s_k = sum over class k of g_i = 1 / (1 + exp(y_i F_i))"),
        "gradient_spread": (("time", "sentence_class"), spread, "largest over smallest g_i within a class"),
        **{name: (("time",), values, formula) for name, (values, formula) in ratios.items()},
        "tokens": (("sample", "position"), batch.tokens, "word at each position"),
        "label": (("sample",), batch.label, "y_i"),
        "class": (("sample",), batch.word_class, "0..3 for I1..I4"),
        "G0": (("word",), initial.G, "G at the start"),
        "S0": ((), initial.S, "S at the start"),
        "Gamma_V0": (("word", "other_word"), initial.Gamma_V, "W_V^T W_V at the start"),
        "A0": (("key_word", "query_word"), initial.A, "W_K^T W_Q at the start"),
        "Gamma_K0": (("word", "other_word"), initial.Gamma_K, "W_K^T W_K at the start"),
        "Gamma_Q0": (("word", "other_word"), initial.Gamma_Q, "W_Q^T W_Q at the start"),
    }  # fmt: skip
    for name, drift in trajectory.drift.items():
        variables[f"drift_{name.replace(' ', '_')}"] = (("time",), drift, f"relative drift of the conserved {name}")
    n, L = batch.tokens.shape
    return xr.Dataset(
        {
            name: (dims, np.asarray(values), {"long_name": long_name, "units": "1"})
            for name, (dims, values, long_name) in variables.items()
        },
        coords={
            "time": ("time", trajectory.times, {"long_name": "time of gradient flow", "units": "1"}),
            "signal": list(WORD_NAMES),
            "other_signal": list(WORD_NAMES),
            "key_signal": list(WORD_NAMES),
            "query_signal": list(WORD_NAMES),
            "sentence_class": list(CLASS_NAMES),
            "key_kind": list(WORD_KINDS),
            "query_kind": list(WORD_KINDS),
        },
        attrs={
            "n": n,
            "L": L,
            "d": initial.G.size,
            "m": float(width.m),
            "m1": float(width.m1),
            "method": trajectory.method,
            "status": trajectory.status,
            "evaluations": trajectory.cost.evaluations,
            "trust": trajectory.trust(),
            **attributes,
        },
    )
