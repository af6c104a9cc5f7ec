"""The orbit reduction: matrices that no exchange of samples or random words changes, as a 7 x 7 block and eight numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._proof import Derivation, NotProved, compare, equation, require_zero
from gradflow.models import coupled, orbits
from gradflow.models.coupled import Coupled, Width
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

n, r = sp.symbols("n r", positive=True)  # samples of a class, random words in each
e, s, o = sp.symbols("e s o", real=True)  # a word with itself, with one of its own sample, with one of another sample


def product(one: sp.Matrix, other: sp.Matrix) -> sp.Matrix:
    """Product of two matrices on the random words of a class, each given by its coefficients of 1, X and Y.

    X = 1 (x) J joins the words of a sample, Y = J (x) J all words of the class, with J the all-ones matrix: J J = n J on
    samples and r J on words, so X X = r X, X Y = Y X = r Y, Y Y = n r Y.
    """
    a, b = one, other
    return sp.Matrix(
        [
            a[0] * b[0],
            a[0] * b[1] + a[1] * b[0] + r * a[1] * b[1],
            a[0] * b[2] + a[2] * b[0] + r * (a[1] * b[2] + a[2] * b[1]) + n * r * a[2] * b[2],
        ]
    )


def projections() -> dict[str, sp.Matrix]:
    """The projections on a class's three kinds of subspace, by their coefficients of 1, X and Y."""
    return {
        "of class": sp.Matrix([0, 0, 1 / (n * r)]),
        "between": sp.Matrix([0, 1 / r, -1 / (n * r)]),
        "within": sp.Matrix([1, -1 / r, 0]),
    }


def copies() -> dict[str, sp.Expr]:
    """Dimension of each subspace, the trace of its projection: the traces of 1, X and Y are all n r."""
    return {name: sp.simplify(n * r * sum(P)) for name, P in projections().items()}


def eigenvalues() -> dict[str, sp.Expr]:
    """What (e - s) 1 + (s - o) X + o Y multiplies the vectors of each subspace by."""
    within = e - s
    between = within + r * (s - o)
    return {"of class": between + n * r * o, "between": between, "within": within}


def orbits_of_pairs(tokens: np.ndarray, word_class: np.ndarray) -> int:
    """The number of orbits of pairs of words, by joining what neighbouring exchanges of samples and of words join."""
    d = tokens.max() + 1
    generators = []
    for c in range(4):
        samples = [[w for w in words if w > 2] for words in tokens[word_class == c].tolist()]
        pairs = [(words[k], words[k + 1]) for words in samples for k in range(len(words) - 1)]
        generators += [[pair] for pair in pairs]
        generators += [list(zip(a, b, strict=True)) for a, b in itertools.pairwise(samples)]
    label = np.arange(d * d).reshape(d, d)
    moved = True
    while moved:
        before = label.copy()
        for swaps in generators:
            exchange = np.arange(d)
            for a, b in swaps:
                exchange[a], exchange[b] = b, a
            label = np.minimum(label, label[np.ix_(exchange, exchange)])
        moved = bool((label != before).any())
    return np.unique(label).size


def derive() -> Derivation:
    """The algebra for any n and r, then its use: forces, flow and step of descent on a training set of 12 samples."""
    P = projections()
    identity = sp.Matrix([1, 0, 0])
    require_zero("they sum to 1", sum(P.values(), sp.zeros(3, 1)) - identity)
    for one, a in P.items():
        for other, b in P.items():
            require_zero(f"{one} times {other}", product(a, b) - (a if one == other else sp.zeros(3, 1)))
    M, of = sp.Matrix([e - s, s - o, o]), eigenvalues()
    for name, projection in P.items():
        require_zero(f"eigenvalue {name}", product(M, projection) - of[name] * projection)
    recovered = {o: (of["of class"] - of["between"]) / (n * r), s: o + (of["between"] - of["within"]) / r}
    require_zero("values from eigenvalues", *(symbol - value for symbol, value in recovered.items()))

    samples, L, width = 12, 5, Width(7.0, 3.0)
    d = least_vocabulary(samples, L)
    batch = CoOccurrence(samples, L, d).sample(jax.random.key(0))
    sizes = orbits.classes(samples, L)
    tokens, word_class = np.asarray(batch.tokens), np.asarray(batch.word_class)
    if orbits_of_pairs(tokens, word_class) != 57:
        raise NotProved("The pairs of words do not form 57 orbits.")

    rng = np.random.default_rng(0)
    G, *matrices = jnp.array(rng.normal(size=d)), *(jnp.array(rng.normal(size=(d, d))) for _ in range(4))
    state = orbits.reduce(Coupled(G, jnp.array(2.0), *matrices), batch)
    words = orbits.expand(state, batch, d)

    def same(against, of_words, of_orbits):
        expanded = orbits.expand(of_orbits, batch, d)
        return compare(against, *(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each)]) for each in (expanded, of_words)))  # fmt: skip

    numbers = [sp.lambdify((n, r), copies()[name]) for name in ("of class", "between", "within")]
    derived_copies = [[f(float(a), float(b)) for a, b in zip(*sizes, strict=True)] for f in numbers]
    values = [np.asarray(words.A)[tokens[0, i], tokens[k, j]] for i, k, j in _three_pairs(tokens)]
    derived_eigenvalues = sp.lambdify((e, s, o, n, r), list(eigenvalues().values()))(*values, 6, 2)
    return Derivation(
        "The orbit reduction",
        "derived for this package; no source is known",
        (
            r"With unique random words the loss does not change when the $n_c$ samples of a class $c$ are exchanged, nor when the $r_c$ random words "
            r"of a sample are. From a state $(G, S, \Gamma_V, A, \Gamma_K, \Gamma_Q)$ that does not change either, the forces $r = -\partial L/\partial G$ "
            r"and $D = -\partial L/\partial A$ do not, and products and transposes of invariant matrices are invariant: the state stays so for ever.",
            r"An invariant matrix has one value an orbit of pairs of words. On the random words of one class it is $(e-s)\,1 + (s-o)\,X + o\,Y$, where $X$ joins "
            r"the words of a sample and $Y$ all of the class, $X^2 = r X$, $XY = YX = rY$, $Y^2 = n r Y$. The three projections",
            r"$$ P_{\text{class}} = \tfrac{1}{nr} Y, \qquad P_{\text{between}} = \tfrac1r X - \tfrac{1}{nr} Y, \qquad P_{\text{within}} = 1 - \tfrac1r X $$",
            r"sum to 1, are idempotent and orthogonal to each other, and have dimensions $1$, $n-1$, $n(r-1)$. On them the matrix is the number",
            *(equation(rf"\lambda_{{\text{{{name.split()[-1]}}}}}", value) for name, value in eigenvalues().items()),
            r"Matrices between a class and a signal, or between two classes, are multiples of $1\,1^\top$ and live on $P_{\text{class}}$ alone. So the space of words "
            r"splits into $3 + 4$ vectors, on which an invariant matrix is any $7 \times 7$ matrix, and twice four subspaces, on each of which it is a number: "
            r"$49 + 4 + 4 = 57$, which is the number of orbits that joining neighbouring exchanges finds for $n = 12$, $L = 5$. Restricted to the seven vectors and "
            r"one unit vector out of each subspace, products of matrices are products of $15 \times 15$ matrices, and the table of the coupled system holds as it stands.",
            r"Only the forces need care: the loss is a function of $\lambda$, and $\langle D, dA \rangle = \sum_k c_k D_k\, d\lambda_k$ with $c_k$ the dimension, so "
            r"$D_k = -c_k^{-1}\, \partial L / \partial \lambda_k$. For $n \to \infty$ all forces on random words fall like $1/n$, they stand still, and "
            r"$3 + 1 + 4 \times 9 = 40$ numbers on the signals remain.",
        ),
        (
            compare("copies in the code", np.concatenate(derived_copies), np.concatenate([np.ones(4), orbits.copies(sizes)[7:]])),
            compare("numbers that reduce finds", derived_eigenvalues, [state.A[3, 3], state.A[7, 7], state.A[11, 11]]),
            same("velocity of the coupled system", coupled.field(words, batch, width)[0], orbits.field(state, sizes, width)[0]),
            same("its step of descent", coupled.step(words, 0.3, batch, width)[0], orbits.step(state, 0.3, sizes, width)[0]),
        ),
    )  # fmt: skip


def _three_pairs(tokens: np.ndarray) -> list[tuple[int, int, int]]:
    """Positions (i of sample 0; sample, j) of a random word of class I1: itself, its own sample, the next one."""
    first, second = np.flatnonzero(tokens[0] > 2)
    return [(first, 0, first), (first, 0, second), (first, 1, np.flatnonzero(tokens[1] > 2)[0])]
