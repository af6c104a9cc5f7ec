"""Eigenvalues of Hessians from products with vectors, against those of the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gradflow.dynamics.flow import GradientField
from gradflow.dynamics.sharpness import hessian_spectrum, largest_eigenvalue, sharpness
from gradflow.models import cooccurrence
from tests.cases import case

SIZE = (18, 5, 11, 6, 4)


@pytest.fixture(scope="module")
def whole():
    """Eigenvalues and eigenvectors of the model's Hessian, formed."""
    weights, batch = case(*SIZE)
    flat, unravel = ravel_pytree(weights)
    hessian = jax.jit(jax.hessian(lambda x: cooccurrence.loss(unravel(x), batch)))(flat)
    return np.linalg.eigh(hessian)


def test_both_ends_of_the_spectrum_are_those_of_the_matrix(whole):
    values, vectors = whole
    weights, batch = case(*SIZE)
    ritz = hessian_spectrum(cooccurrence.loss, weights, batch, iterations=40)
    for ends in (slice(None, 2), slice(-2, None)):
        np.testing.assert_allclose(ritz.values[ends], values[ends], rtol=0, atol=1e-6 * values[-1])
    off = np.abs(np.asarray(ritz.values)[:, None] - values).min(axis=1)
    np.testing.assert_array_less(off, np.asarray(ritz.errors) + 1e-12)  # rounding; the bound itself is exact
    for vector, of_matrix in ((ritz.leading, vectors[:, -1]), (ritz.lowest, vectors[:, 0])):
        assert abs(ravel_pytree(vector)[0] @ of_matrix) == pytest.approx(1, abs=1e-4)
    assert float(sharpness(cooccurrence.loss, weights, batch)) == pytest.approx(values[-1], rel=1e-3)


def test_with_as_many_iterations_as_parameters_it_is_the_whole_spectrum(whole):
    """Many eigenvalues are zero, many coincide: the Krylov space is exhausted again and again."""
    weights, batch = case(*SIZE)
    ritz = hessian_spectrum(cooccurrence.loss, weights, batch, iterations=1000)
    np.testing.assert_allclose(ritz.values, whole[0], rtol=0, atol=1e-12 * whole[0][-1])  # rounding


def saddle(params):
    return 0.5 * (3 * params[0] ** 2 - 5 * params[1] ** 2)


def test_sharpness_is_the_largest_eigenvalue_and_not_the_largest_in_size():
    at = jnp.array([0.3, 0.7])
    assert float(sharpness(saddle, at)) == pytest.approx(3, rel=1e-14)
    assert float(largest_eigenvalue(GradientField(saddle), at)) == pytest.approx(5, rel=1e-6)


def test_a_direction_that_the_gradient_does_not_see_is_found():
    """On the symmetric line the gradient has no part in (1, -1), which is the sharper direction."""
    at = jnp.array([1.0, 1.0])
    assert float(sharpness(lambda p: 0.5 * (p[0] + p[1]) ** 2 + 2 * (p[0] - p[1]) ** 2, at)) == pytest.approx(8)


def test_the_eigenvalue_of_a_field_that_is_no_gradient():
    matrix = jnp.array([[-3.0, 5.0], [0.0, 1.0]])
    found = largest_eigenvalue(lambda y: (matrix @ y, 0.0), jnp.array([1.0, 1.0]))
    assert float(found) == pytest.approx(3, rel=1e-5)  # a change of 1e-6 ends it
