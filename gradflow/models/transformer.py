"""One transformer for all papers: embeddings, pre-norm blocks of attention and MLP, a final norm, and a head without bias.

    x_t = E[token_t] + P_t
    x <- x + O(map(Q(N_1 x), K(N_1 x)) V(N_1 x))          for each layer; N is a layer norm, Q, K, V, O have biases
    x <- x + down(gelu(up(N_2 x)))
    logits = N(x) head

as in Gopalani and Hu (2025), arXiv 2506.13688; `map` is one of `models.attention_maps`. Functions take one sequence, and vmap makes
a batch of it. Index suffixes: i query position, j key position, h head, c channel of a head, e channel, v token of the vocabulary.

Every value on the way has a name, its place (`places`), and passes through a tap: `tap(place, value, positions) -> value`, where axis
-2 of the value belongs to `positions`. A tap that returns something else intervenes there, one that takes notes observes
(`observe`), and the default one costs nothing. Names of parameters are paths such as `layers/0/Q/weight`.
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gradflow.errors import require
from gradflow.models.attention_maps import ATTENTION

Tap = Callable[[str, Array, Array], Array]

# Standard deviation of random weights; matrices that write to the residual stream have less: 1/sqrt(2 layers) of it.
INITIAL_SCALE = 0.02
NORM_EPS = 1e-5


class Linear(eqx.Module):
    """x weight + bias."""

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"]

    def __call__(self, x: Float[Array, "i in"]) -> Float[Array, "i out"]:
        return x @ self.weight + self.bias


class Norm(eqx.Module):
    """Layer norm: mean 0 and variance 1 over channels, then scale and shift."""

    scale: Float[Array, " e"]
    shift: Float[Array, " e"]

    def __call__(self, x: Float[Array, "i e"]) -> Float[Array, "i e"]:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + NORM_EPS) * self.scale + self.shift


class Layer(eqx.Module):
    """One block. The heads share the channels of Q, K, V: head h has those from h c to (h + 1) c."""

    norm_1: Norm
    Q: Linear
    K: Linear
    V: Linear
    O: Linear
    norm_2: Norm
    up: Linear
    down: Linear


class Transformer(eqx.Module):
    """The weights, and what is not trained: the number of heads, the kind of attention, whether it is causal."""

    token_embedding: Float[Array, "v e"]
    position_embedding: Float[Array, "context e"]
    layers: tuple[Layer, ...]
    norm: Norm
    head: Float[Array, "e v"]
    heads: int = eqx.field(static=True)
    attention: str = eqx.field(static=True)
    causal: bool = eqx.field(static=True)


class Cache(eqx.Module):
    """Keys and values of one layer at all positions, those not reached yet 0."""

    k: Float[Array, "h context c"]
    v: Float[Array, "h context c"]


def init(
    key: PRNGKeyArray,
    *,
    vocabulary: int,
    context: int,
    layers: int = 1,
    heads: int = 1,
    width: int = 256,
    hidden: int | None = None,
    attention: Literal["linear", "softmax"] = "linear",
    causal: bool = True,
    dtype: jnp.dtype = jnp.float32,
) -> Transformer:
    """Random weights: N(0, 0.02^2), those of O and down 0.02 / sqrt(2 layers); biases and shifts 0, scales 1.

    context   longest sequence
    hidden    units of the MLP; default 4 width

    32 bits suffice for discrete training; give `jnp.float64` for flows. Raises `InputError` for sizes that do not fit.
    """
    hidden = 4 * width if hidden is None else hidden
    sizes = {
        "vocabulary": vocabulary, "context": context, "layers": layers, "heads": heads, "width": width, "hidden": hidden
    }  # fmt: skip
    for name, size in sizes.items():
        require(size >= 1, f"{name} must be positive, got {size}.")
    require(width % heads == 0, f"width must be a multiple of heads, got width = {width} and heads = {heads}.")
    require(attention in ATTENTION, f"Unknown attention {attention!r}; known are {', '.join(ATTENTION)}.")
    keys = iter(jax.random.split(key, 3 + 6 * layers))
    small = INITIAL_SCALE / math.sqrt(2 * layers)

    def matrix(rows: int, columns: int, scale: float = INITIAL_SCALE) -> Array:
        return scale * jax.random.normal(next(keys), (rows, columns), dtype)

    def linear(rows: int, columns: int, scale: float = INITIAL_SCALE) -> Linear:
        return Linear(matrix(rows, columns, scale), jnp.zeros(columns, dtype))

    def norm() -> Norm:
        return Norm(jnp.ones(width, dtype), jnp.zeros(width, dtype))

    def layer() -> Layer:
        q, k, v, o = (linear(width, width, scale) for scale in (INITIAL_SCALE,) * 3 + (small,))
        return Layer(norm(), q, k, v, o, norm(), linear(width, hidden), linear(hidden, width, small))

    embeddings = matrix(vocabulary, width), matrix(context, width)
    blocks = tuple(layer() for _ in range(layers))
    return Transformer(*embeddings, blocks, norm(), matrix(width, vocabulary), heads, attention, causal)


def places(layers: int) -> tuple[str, ...]:
    """The names of all values that pass through a tap, in order.

    embedding, final: after the embeddings and after the final norm, (i, e). Of each layer: map (h, i, j), attention (what it adds,
    before the residual stream), after_attention and after_mlp (the stream after each), (i, e).
    """
    of_layer = ("map", "attention", "after_attention", "after_mlp")
    return ("embedding", *(f"layers/{index}/{name}" for index in range(layers) for name in of_layer), "final")


def untouched(place: str, value: Array, positions: Array) -> Array:
    """The tap that does nothing."""
    return value


def logits(weights: Transformer, tokens: Int[Array, " i"], tap: Tap = untouched) -> Float[Array, "i v"]:
    """Logits of the next token at every position. Raises `InputError` for more tokens than the context holds."""
    context = len(weights.position_embedding)
    require(1 <= tokens.size <= context, f"{tokens.size} tokens do not fit into a context of {context}.")
    return _run(weights, tokens, jnp.arange(tokens.size), None, tap)[0]


def cross_entropy(logits: Float[Array, "i v"], tokens: Int[Array, " i+1"]) -> Float[Array, " i"]:
    """Cross-entropy of each token but the first, in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], axis=-1)[:, 0]


def no_tap(tokens: Int[Array, " T"], *rest) -> Tap:
    """What intervenes on a sequence where nothing does."""
    return untouched


class Loss(eqx.Module):
    """Mean cross-entropy over all predicted tokens of a batch, random inputs too: called with weights, a batch (b, T), and more.

    `tap_for(tokens, *rest)` is the tap that intervenes on a sequence; `rest` is what the loss was given besides the batch.
    """

    tap_for: Callable[..., Tap] = no_tap

    def __call__(self, weights: Transformer, batch: Int[Array, "b T"], *rest) -> Float[Array, ""]:
        def of_one(tokens):
            return cross_entropy(logits(weights, tokens[:-1], self.tap_for(tokens, *rest)), tokens)

        return jax.vmap(of_one)(batch).mean()


loss = Loss()


def observe(
    weights: Transformer, tokens: Int[Array, " i"], tap: Tap = untouched
) -> tuple[Float[Array, "i v"], dict[str, Array]]:
    """Logits, and what passed through each of the `places` (after `tap`). Of what is not used, a compiler computes nothing."""
    seen = {}

    def taking_notes(place, value, positions):
        seen[place] = tap(place, value, positions)
        return seen[place]

    return logits(weights, tokens, taking_notes), seen


def generate(weights: Transformer, prompt: Int[Array, " i"], count: int, tap: Tap = untouched) -> Int[Array, " count"]:
    """The `count` tokens that follow a prompt, each the likeliest, with keys and values of earlier positions kept.

    A tap sees the positions that are computed: those of the prompt, then one at a time.
    """
    context, width = weights.position_embedding.shape
    require(weights.causal, "Only a causal model can generate.")
    require(count >= 1, f"count must be positive, got {count}.")
    require(
        prompt.size >= 1 and prompt.size + count - 1 <= context,
        f"{prompt.size} + {count} tokens do not fit into a context of {context}.",
    )
    empty = jnp.zeros((weights.heads, prompt.size + count - 1, width // weights.heads), weights.head.dtype)
    cache = tuple(Cache(empty, empty) for _ in weights.layers)
    out, cache = _run(weights, prompt, jnp.arange(prompt.size), cache, tap)

    def extend(carry, position):
        token, cache = carry
        out, cache = _run(weights, token[None], position[None], cache, tap)
        following = out[0].argmax()
        return (following, cache), following

    first = out[-1].argmax()
    _, rest = jax.lax.scan(extend, (first, cache), prompt.size + jnp.arange(count - 1))
    return jnp.concatenate([first[None], rest])


def _run(weights, tokens, positions, cache, tap):
    """Logits at `positions`, whose tokens are given, and the cache, if there is one, with their keys and values."""
    x = tap("embedding", weights.token_embedding[tokens] + weights.position_embedding[positions], positions)
    cache, new = cache or (None,) * len(weights.layers), []
    for index, (layer, memory) in enumerate(zip(weights.layers, cache, strict=True)):
        name = f"layers/{index}"
        attended, memory = _attend(weights, layer, layer.norm_1(x), positions, memory, f"{name}/map", tap)
        new.append(memory)
        x = tap(f"{name}/after_attention", x + tap(f"{name}/attention", attended, positions), positions)
        x = tap(f"{name}/after_mlp", x + layer.down(jax.nn.gelu(layer.up(layer.norm_2(x)))), positions)
    return tap("final", weights.norm(x), positions) @ weights.head, tuple(new)


def _attend(weights, layer, x, positions, memory, place, tap):
    """What attention adds at `positions`, and the memory with their keys and values."""
    q, k, v = (_by_head(linear(x), weights.heads) for linear in (layer.Q, layer.K, layer.V))
    if memory is not None:
        memory = Cache(memory.k.at[:, positions].set(k), memory.v.at[:, positions].set(v))
        k, v = memory.k, memory.v
    everywhere = jnp.arange(k.shape[1])
    visible = positions[:, None] >= everywhere if weights.causal else jnp.ones((positions.size, everywhere.size), bool)
    a_hij = jax.vmap(ATTENTION[weights.attention], (0, 0, None))(q, k, visible)
    o_hic = tap(place, a_hij, positions) @ v
    return layer.O(jnp.moveaxis(o_hic, 0, 1).reshape(x.shape)), memory


def _by_head(x: Float[Array, "i e"], heads: int) -> Float[Array, "h i c"]:
    return jnp.moveaxis(x.reshape(len(x), heads, -1), 1, 0)
