"""The transformer is its definition, written out in loops; taps see and change what they say; the cache changes nothing."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError
from gradflow.models import transformer

VOCABULARY, CONTEXT, WIDTH, HIDDEN = 7, 13, 12, 20


def random_weights(seed, **options):
    """Nothing is 0 or 1 in these, biases, shifts and scales neither, and activations are of order 1."""
    sizes = {"vocabulary": VOCABULARY, "context": CONTEXT, "width": WIDTH, "hidden": HIDDEN, "dtype": jnp.float64}
    shapes = eqx.filter_eval_shape(lambda key: transformer.init(key, **(sizes | options)), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) / (math.sqrt(leaf.shape[0]) if len(leaf.shape) == 2 else 1))

    return jax.tree.map(draw, shapes)


def random_tokens(seed, length):
    return np.random.default_rng(seed).integers(0, VOCABULARY, length)


# ------------------------------------------------------------------------------------------- the definition, in loops


def normed(x, norm):
    out = []
    for row in x:
        centred = row - sum(row) / len(row)
        out.append(centred / math.sqrt(sum(centred**2) / len(row) + 1e-5) * norm.scale + norm.shift)
    return np.array(out)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attended(q, k, kind, causal):
    """One head's map, entry by entry."""
    map = np.zeros((len(q), len(k)))
    for i in range(len(q)):
        seen = range(i + 1) if causal else range(len(k))
        for j in seen:
            score = sum(q[i] * k[j]) / math.sqrt(len(q[i]))
            map[i, j] = score if kind == "linear" else math.exp(score)
        if kind == "softmax":
            map[i] /= sum(map[i])
    return map


def by_definition(weights, tokens, tap=lambda place, value: value):
    """Logits and the value at each place, in order."""
    weights, seen = jax.tree.map(np.asarray, weights), {}

    def passing(place, value):
        seen[place] = tap(place, value)
        return seen[place]

    x = np.array([weights.token_embedding[v] + weights.position_embedding[i] for i, v in enumerate(tokens)])
    x = passing("embedding", x)
    for number, layer in enumerate(weights.layers):
        u = normed(x, layer.norm_1)
        q, k, v = (u @ part.weight + part.bias for part in (layer.Q, layer.K, layer.V))
        c = q.shape[1] // weights.heads
        channels = [slice(h * c, (h + 1) * c) for h in range(weights.heads)]
        maps = np.array([attended(q[:, at], k[:, at], weights.attention, weights.causal) for at in channels])
        maps = passing(f"layers/{number}/map", maps)
        o = np.concatenate([map @ v[:, at] for map, at in zip(maps, channels, strict=True)], axis=1)
        x = x + passing(f"layers/{number}/attention", o @ layer.O.weight + layer.O.bias)
        x = passing(f"layers/{number}/after_attention", x)
        between = gelu(normed(x, layer.norm_2) @ layer.up.weight + layer.up.bias)
        x = passing(f"layers/{number}/after_mlp", x + between @ layer.down.weight + layer.down.bias)
    return passing("final", normed(x, weights.norm)) @ weights.head, seen


def cross_entropy_by_definition(weights, tokens):
    rows = by_definition(weights, tokens[:-1])[0]
    return [math.log(sum(math.exp(z) for z in row)) - row[token] for row, token in zip(rows, tokens[1:], strict=True)]


observed = eqx.filter_jit(transformer.observe)


@pytest.mark.parametrize(
    ("attention", "causal", "layers", "heads", "length"),
    [
        ("linear", True, 1, 1, 5),
        ("linear", True, 3, 2, 7),
        ("linear", True, 1, 4, 1),
        ("linear", False, 1, 2, 5),
        ("softmax", True, 1, 2, 3),
        ("softmax", True, 3, 4, 13),
        ("softmax", False, 2, 1, 7),
    ],
)
def test_logits_and_all_places_are_those_of_the_definition(attention, causal, layers, heads, length):
    weights = random_weights(length, layers=layers, heads=heads, attention=attention, causal=causal)
    tokens = random_tokens(length, length)
    logits, seen = observed(weights, jnp.asarray(tokens))
    expected, at_places = by_definition(weights, tokens)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12)  # values of order 1, some hundred roundings
    assert tuple(at_places) == transformer.places(layers) and set(seen) == set(at_places)
    for place, value in at_places.items():
        np.testing.assert_allclose(seen[place], value, rtol=0, atol=1e-12 * max(1, np.abs(value).max()), err_msg=place)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_the_loss_is_the_mean_cross_entropy_and_its_gradient_that_of_finite_differences(attention):
    weights = random_weights(1, layers=2, heads=2, attention=attention)
    batch = random_tokens(2, (3, 6))
    value, gradient = eqx.filter_jit(jax.value_and_grad(transformer.loss))(weights, jnp.asarray(batch))
    expected = [cross_entropy_by_definition(weights, tokens) for tokens in batch]
    assert np.shape(expected) == (3, 5)
    assert value == pytest.approx(np.mean(expected), abs=1e-13)  # rounding

    loss, h, rng = eqx.filter_jit(transformer.loss), 1e-4, np.random.default_rng(3)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, weights))
    for index, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        direction = rng.normal(size=leaf.shape) / math.sqrt(leaf.size)

        def at(scale, index=index, leaf=leaf, direction=direction):
            moved = [*leaves[:index], leaf + scale * direction, *leaves[index + 1 :]]
            return float(loss(jax.tree.unflatten(structure, moved), batch))

        difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        # fourth order: h^4 = 1e-16 times a fifth derivative, and rounding 1e-16 / h = 1e-12
        assert np.sum(np.asarray(slope) * direction) == pytest.approx(difference, abs=1e-10)


def test_at_the_start_the_loss_is_close_to_that_of_equally_likely_tokens(initial):
    """Logits have the standard deviation 0.02 sqrt(width) = 0.11: they add about half their variance, 0.006, to ln 50."""
    batch = np.random.default_rng(0).integers(0, 50, (32, 14))
    assert eqx.filter_jit(transformer.loss)(initial, batch) == pytest.approx(math.log(50), abs=0.03)


# ------------------------------------------------------------------------------------------------------- who sees whom


@pytest.mark.parametrize(
    ("attention", "causal", "layers", "heads", "length"),
    [("linear", True, 3, 2, 7), ("softmax", True, 3, 4, 13), ("linear", False, 1, 2, 5), ("softmax", False, 2, 1, 7)],
)
def test_a_later_token_changes_no_earlier_logits_unless_the_model_is_not_causal(
    attention, causal, layers, heads, length
):
    weights = random_weights(4, layers=layers, heads=heads, attention=attention, causal=causal)
    tokens = random_tokens(5, length)
    for at in range(length):
        other = tokens.copy()
        other[at] = (other[at] + 1) % VOCABULARY
        one, two = (np.asarray(observed(weights, t)[0]) for t in (tokens, other))
        np.testing.assert_array_equal(one[:at] == two[:at], causal)
        assert (one[at:] != two[at:]).all()  # it is seen by itself and by all later ones


# ------------------------------------------------------------------------------------------------------------ the start


@pytest.fixture(scope="module")
def initial():
    sizes = {"vocabulary": 50, "context": 40, "layers": 3, "heads": 2, "width": 32}
    return transformer.init(jax.random.key(7), **sizes)


def test_initial_weights_are_normal_with_the_papers_scales_and_biases_are_zero(initial):
    matrices = {"token_embedding": initial.token_embedding, "position_embedding": initial.position_embedding}
    matrices["head"] = initial.head
    for number, layer in enumerate(initial.layers):
        parts = {name: getattr(layer, name) for name in ("Q", "K", "V", "O", "up", "down")}
        matrices |= {f"{number}/{name}": part.weight for name, part in parts.items()}
        assert not any(np.any(part.bias) for part in parts.values())
    assert len(matrices) == 3 + 6 * 3
    for name, matrix in matrices.items():
        scale = 0.02 / math.sqrt(6) if name[-1] == "O" or name.endswith("down") else 0.02
        entries = np.asarray(matrix, float).ravel() / scale
        # moments of N(0, 1) have the variances 1/N, 2/N and 96/N; five standard deviations, fixed key
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
            assert abs((entries**power).mean() - moment) < 5 * math.sqrt(variance / entries.size), (name, power)
    squares = [np.asarray(m, float).ravel() for m in matrices.values() if m.shape == (32, 32)]
    for one, two in itertools.combinations(squares, 2):
        assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(one.size)  # each has a key of its own
    norms = [initial.norm, *(norm for layer in initial.layers for norm in (layer.norm_1, layer.norm_2))]
    assert all((norm.scale == 1).all() and (norm.shift == 0).all() for norm in norms)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}


def count(weights):
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


@pytest.mark.parametrize(("layers", "hidden"), [(1, None), (3, 20)])
def test_the_number_of_parameters_is_counted_by_hand(layers, hidden):
    v, T, e = 18, 33, 256
    m = hidden or 4 * e
    shapes = eqx.filter_eval_shape(
        lambda key: transformer.init(key, vocabulary=v, context=T, layers=layers, width=e, hidden=hidden),
        jax.random.key(0),
    )
    attention, norms, mlp = 4 * (e * e + e), 2 * 2 * e, 2 * e * m + m + e
    assert count(shapes) == (v + T) * e + layers * (attention + norms + mlp) + 2 * e + e * v
    if (layers, hidden) == (1, None):
        assert count(shapes) == 807_936  # the paper's model


def test_parameters_are_named_as_paths(initial):
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(initial)
    }
    assert paths["token_embedding"] == (50, 32) and paths["position_embedding"] == (40, 32)
    assert paths["layers/2/Q/weight"] == (32, 32) and paths["layers/2/Q/bias"] == (32,)
    assert paths["layers/0/up/weight"] == (32, 128) and paths["layers/0/down/weight"] == (128, 32)
    assert paths["norm/shift"] == (32,) and paths["head"] == (32, 50)
    assert len(paths) == 2 + 3 * (6 * 2 + 2 * 2) + 2 + 1


def test_single_precision_stays_single(initial):
    """In logits, gradients, maps and while generating, although the tests run with 64 bits."""
    tokens = jnp.arange(6)[None]
    gradient = eqx.filter_eval_shape(jax.grad(transformer.loss), initial, tokens)
    logits, seen = eqx.filter_eval_shape(transformer.observe, initial, tokens[0])
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, logits, seen))} == {jnp.dtype("float32")}
    kinds = set()

    def tap(place, value, positions):
        kinds.add(value.dtype.name)
        return value

    eqx.filter_eval_shape(lambda weights, t: transformer.generate(weights, t, 3, tap), initial, tokens[0])
    assert kinds == {"float32"}


# ----------------------------------------------------------------------------------------------------------------- taps


@pytest.fixture(scope="module")
def two_layers():
    return random_weights(11, layers=2, heads=2)


TOKENS = random_tokens(12, 7)
SHAPES = {place: (2, 7, 7) if place.endswith("map") else (7, WIDTH) for place in transformer.places(2)}


class Affine(eqx.Module):
    """A tap: every value times a factor, plus a shift."""

    factor: dict
    shift: dict

    def __call__(self, place, value, positions=None):
        return value * self.factor[place] + self.shift[place]


def affine(factor=None, shift=None):
    """One that changes the places that are named, and no others."""
    factor, shift = factor or {}, shift or {}
    ones = {place: np.broadcast_to(factor.get(place, 1.0), shape) + 0.0 for place, shape in SHAPES.items()}
    return Affine(ones, {place: np.broadcast_to(shift.get(place, 0.0), shape) + 0.0 for place, shape in SHAPES.items()})


def tapped(weights, tap, tokens=TOKENS):
    return np.asarray(observed(weights, tokens, tap)[0])


def test_the_taps_see_exactly_the_places_in_order_with_positions_along_the_axis_before_the_last(two_layers):
    seen = []

    def tap(place, value, positions):
        seen.append((place, value.shape, positions.shape))
        return value

    eqx.filter_eval_shape(transformer.logits, two_layers, jnp.asarray(TOKENS), tap)
    e, one_layer = (7, WIDTH), [("map", (2, 7, 7))]
    one_layer += [(name, e) for name in ("attention", "after_attention", "after_mlp")]
    expected = [("embedding", e), *((f"layers/{k}/{name}", at) for k in (0, 1) for name, at in one_layer), ("final", e)]
    assert seen == [(place, shape, (7,)) for place, shape in expected]
    assert [place for place, *_ in seen] == list(transformer.places(2))


def with_values_times(weights, factor, layers=(0, 1)):
    """The values of some layers, V with its bias, times a factor by channel."""
    V = [jax.tree.map(lambda p: p * factor, weights.layers[k].V) for k in layers]
    return eqx.tree_at(lambda w: [w.layers[k].V for k in layers], weights, V)


def test_a_map_of_zeros_is_values_of_zero(two_layers):
    for k in (0, 1):
        expected = by_definition(with_values_times(two_layers, 0.0, [k]), TOKENS)[0]
        off = tapped(two_layers, affine({f"layers/{k}/map": 0.0})) - expected
        np.testing.assert_allclose(off, 0, atol=1e-12)


def test_a_scaled_map_of_one_head_is_scaled_values_of_that_head(two_layers):
    channels = np.where(np.arange(WIDTH) < WIDTH // 2, 1.0, 3.0)  # head 1 has the second half
    expected = by_definition(with_values_times(two_layers, channels, [1]), TOKENS)[0]
    scaled = tapped(two_layers, affine({"layers/1/map": np.array([1.0, 3.0])[:, None, None]}))
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-12)
    assert np.abs(expected - by_definition(two_layers, TOKENS)[0]).max() > 1e-2


def test_what_a_tap_returns_is_what_goes_on_and_what_is_observed(two_layers):
    rng, plain = np.random.default_rng(13), by_definition(two_layers, TOKENS)[0]
    for changed, shape in SHAPES.items():
        tap = affine({changed: -0.5}, {changed: rng.normal(size=shape)})
        logits, seen = observed(two_layers, TOKENS, tap)
        expected, at_places = by_definition(two_layers, TOKENS, tap)
        assert np.abs(logits - expected).max() < 1e-12, changed
        assert np.abs(expected - plain).max() > 1e-2, changed
        for place, value in at_places.items():
            assert np.abs(seen[place] - value).max() < 1e-12 * max(1, np.abs(value).max()), (changed, place)


def test_the_stream_of_another_sequence_patched_in_anywhere_gives_the_logits_of_that_sequence(two_layers):
    logits, seen = observed(two_layers, random_tokens(14, 7), affine())
    streams = [place for place in SHAPES if not place.endswith(("map", "/attention"))]
    assert len(streams) == 6
    for place in streams:  # all that follows depends on this value alone
        np.testing.assert_array_equal(tapped(two_layers, affine({place: 0.0}, {place: seen[place]})), logits)
    assert np.abs(tapped(two_layers, affine()) - logits).max() > 1e-2


class Scaled(eqx.Module):
    """A tap: the map times a strength."""

    strength: jax.Array

    def __call__(self, place, value, positions):
        return value * self.strength if place.endswith("map") else value


def strength_of_first_token(tokens, strengths):
    return Scaled(strengths[tokens[0]])


def test_the_loss_gives_each_sequence_its_own_tap_and_what_came_with_the_batch(two_layers):
    batch, strengths = random_tokens(15, (3, 6)), np.arange(VOCABULARY) / 3
    value = eqx.filter_jit(transformer.Loss(strength_of_first_token))(two_layers, batch, jnp.asarray(strengths))
    # a scaled map is scaled values
    models = [with_values_times(two_layers, strengths[tokens[0]]) for tokens in batch]
    expected = [cross_entropy_by_definition(*pair) for pair in zip(models, batch, strict=True)]
    assert len(set(batch[:, 0])) > 1
    assert value == pytest.approx(np.mean(expected), abs=1e-12)


def flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_what_is_observed_and_not_used_costs_nothing():
    weights, tokens = random_weights(0), jnp.asarray(TOKENS)
    plain = flops(transformer.logits, weights, tokens)
    assert flops(lambda w, t: transformer.observe(w, t)[0], weights, tokens) == plain > 0
    used = flops(lambda w, t: [(value**2).sum() for value in transformer.observe(w, t)[1].values()], weights, tokens)
    assert used > plain  # so that the measure is one


def test_other_weights_and_tokens_of_the_same_shapes_need_no_new_program():
    traced = []

    @eqx.filter_jit
    def logits(weights, tokens):
        traced.append(tokens.shape)
        return transformer.logits(weights, tokens)

    for seed in range(3):
        logits(random_weights(seed, heads=2), jnp.asarray(random_tokens(seed, 4)))
    assert traced == [(4,)]
    logits(random_weights(0, heads=3), jnp.asarray(random_tokens(0, 4)))
    assert traced == [(4,), (4,)]


# ------------------------------------------------------------------------------------------------------------ generation


class ByPosition(eqx.Module):
    """Scales a map entry by entry, and pushes the stream after each MLP."""

    strength: np.ndarray
    push: np.ndarray

    def __call__(self, place, value, positions):
        if place.endswith("map"):
            return value * self.strength[positions, : value.shape[-1]]
        return value + self.push[positions] if place.endswith("after_mlp") else value

    def at_once(self, place, value):
        return self(place, value, np.arange(value.shape[-2]))


def greedy(weights, prompt, count, tap=lambda place, value: value):
    """One whole pass for every token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(by_definition(weights, tokens, tap)[0][-1].argmax()))
    return tokens[len(prompt) :]


generated = eqx.filter_jit(transformer.generate)


@pytest.mark.parametrize(
    ("attention", "layers", "heads", "prompt", "count"),
    [("linear", 1, 1, 1, 13), ("linear", 2, 4, 5, 9), ("softmax", 3, 2, 4, 6), ("softmax", 1, 4, 13, 1)],
)
def test_what_is_generated_with_a_cache_is_what_whole_passes_give_with_a_tap_too(
    attention, layers, heads, prompt, count
):
    weights = random_weights(prompt, layers=layers, heads=heads, attention=attention)
    weights = eqx.tree_at(
        lambda w: w.norm.shift, weights, weights.norm.shift / 5
    )  # no token is the likeliest everywhere
    rng, outputs = np.random.default_rng(prompt), {}
    taps = [ByPosition(np.ones((CONTEXT, CONTEXT)), np.zeros((CONTEXT, WIDTH)))]
    taps += [ByPosition(rng.normal(1, 1, (CONTEXT, CONTEXT)), rng.normal(0, 2, (CONTEXT, WIDTH))) for _ in range(3)]
    for seed, (number, tap) in itertools.product((1, 2), enumerate(taps)):
        start = random_tokens(seed, prompt)
        outputs[seed, number] = expected = tuple(greedy(weights, start, count, tap.at_once))
        np.testing.assert_array_equal(generated(weights, start, count, jax.tree.map(jnp.asarray, tap)), expected)
    assert len({outputs[1, number] for number in range(4)}) > 1  # else no tap is told from none,
    assert len(set().union(*outputs.values())) > 2  # nor one token from another


def test_without_a_tap_generation_is_that_of_a_tap_that_does_nothing():
    weights, start = random_weights(1), jnp.asarray(random_tokens(2, 3))
    np.testing.assert_array_equal(generated(weights, start, 6), greedy(weights, np.asarray(start), 6))


def test_the_tap_sees_the_prompt_and_then_one_position_at_a_time(two_layers):
    shapes = []

    def tap(place, value, positions):
        shapes.append((place, value.shape, positions.shape))
        return value

    eqx.filter_eval_shape(lambda w, t: transformer.generate(w, t, 4, tap), two_layers, jnp.arange(3))
    prompt, one = shapes[: len(transformer.places(2))], shapes[len(transformer.places(2)) :]
    assert ("layers/1/map", (2, 3, 6), (3,)) in prompt and ("final", (3, WIDTH), (3,)) in prompt
    assert ("layers/1/map", (2, 1, 6), (1,)) in one and ("final", (1, WIDTH), (1,)) in one


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocabulary": 0}, "vocabulary must be positive, got 0"),
        ({"context": 0}, "context must be positive, got 0"),
        ({"layers": 0}, "layers must be positive, got 0"),
        ({"heads": 0}, "heads must be positive, got 0"),
        ({"width": -8}, "width must be positive, got -8"),
        ({"hidden": 0}, "hidden must be positive, got 0"),
        ({"width": 9, "heads": 2}, "width must be a multiple of heads, got width = 9 and heads = 2"),
        ({"attention": "cosine"}, "Unknown attention 'cosine'; known are linear, softmax"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        transformer.init(jax.random.key(0), **({"vocabulary": 5, "context": 4, "width": 8} | options))


def test_tokens_beyond_the_context_are_refused(two_layers):
    with pytest.raises(InputError, match="14 tokens do not fit into a context of 13"):
        transformer.logits(two_layers, jnp.zeros(14, int))
    with pytest.raises(InputError, match="14 tokens do not fit into a context of 13"):
        transformer.loss(two_layers, jnp.zeros((2, 15), int))
    with pytest.raises(InputError, match="0 tokens do not fit"):
        transformer.logits(two_layers, jnp.zeros(0, int))


def test_what_cannot_be_generated_is_refused(two_layers):
    eqx.filter_eval_shape(transformer.generate, two_layers, jnp.zeros(5, int), 9)  # the last one is never read
    for prompt, number in ((5, 10), (14, 1), (0, 3)):
        with pytest.raises(InputError, match=f"{prompt} [+] {number} tokens do not fit into a context of 13"):
            transformer.generate(two_layers, jnp.zeros(prompt, int), number)
    with pytest.raises(InputError, match="count must be positive, got 0"):
        transformer.generate(two_layers, jnp.zeros(3, int), 0)
    with pytest.raises(InputError, match="Only a causal model can generate"):
        transformer.generate(random_weights(0, causal=False), jnp.zeros(3, int), 2)
