"""Gradient of the co-occurrence loss: gathered by word against the plain einsum over one-hot sentences.

Both are compiled, in 64 bits, at n = 1024, d = 128, L = 32, m = 256, m1 = 32. Target: the gathered one, which everything
runs on, is at least 30 times faster, and its gradient is the same.
"""

import jax
import jax.numpy as jnp

import gradflow
from benchmarks.timing import in_words, interleaved, met, print_table, ratio
from gradflow.models import cooccurrence as model
from gradflow.tasks.cooccurrence import CoOccurrence

N, D, L, M, M1 = 1024, 128, 32, 256, 32
ROUNDS = 9


def main() -> None:
    gradflow.enable_x64()
    key_data, key_weights = jax.random.split(jax.random.key(0))
    # 1024 is no multiple of 6: the first 1024 of 1026 sentences
    batch = jax.tree.map(lambda leaf: leaf[:N], CoOccurrence(n=1026, L=L, d=D, random_words="iid").sample(key_data))
    weights = model.init(key_weights, m=M, m1=M1, d=D, L=L)
    gradients = {"gathered": jax.jit(jax.grad(model.loss)), "plain": jax.jit(jax.grad(model.plain_loss))}
    sides = {
        name: lambda gradient=gradient: jax.block_until_ready(gradient(weights, batch))
        for name, gradient in gradients.items()
    }
    seconds = interleaved(sides, ROUNDS, turn=0.2)

    gathered, plain = (jax.tree.leaves(gradients[name](weights, batch)) for name in ("gathered", "plain"))
    apart = max(
        float(jnp.abs(one - other).max() / jnp.abs(other).max())
        for one, other in zip(gathered, plain, strict=True)
        if other.any()
    )
    faster = ratio(seconds["plain"], seconds["gathered"])
    print_table(
        [
            ("", "one gradient", "", "target", ""),
            ("plain einsum", in_words(seconds["plain"]), "", "", ""),
            ("gathered", in_words(seconds["gathered"]), f"{faster:.1f} times faster", ">= 30", met(faster >= 30)),
            ("largest relative difference", "", f"{apart:.1e}", "<= 1e-12", met(apart <= 1e-12)),
        ]
    )


if __name__ == "__main__":
    main()
