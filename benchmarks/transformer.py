"""A training step of the sequence transformer, and of the same model in eager PyTorch; and what observing it costs.

Moving window sum, Adam, 32 bits, fresh sequences each step on both sides. paper: n = 16, p = 17, width 256, batch 256 (33 tokens); small: the
default of `simulations.loss_plateau`. The torch side is written as one would: modules, autograd, `torch.optim.Adam`, with its default number of threads and
with one; the faster counts. Targets: at least 1.4 times (paper) and 3 times (small) faster; observing at the default schedule below 10 % of the run.
"""

from importlib.util import find_spec

import jax
import numpy as np
import optax

import gradflow
from benchmarks.timing import in_words, interleaved, met, print_table, ratio
from gradflow.models import transformer
from gradflow.observe.sequences import Observer
from gradflow.tasks.sequences import Fresh, WindowSum
from simulations.loss_plateau import PRESETS

TARGETS = {"paper": 1.4, "small": 3.0}
STEPS = {"paper": 10, "small": 1000}
ROUNDS = 3


def by_gradflow(task: WindowSum, *, width: int, batch_size: int, learning_rate: float, steps: int):
    """`steps` compiled steps, with nothing looked at between."""
    weights = transformer.init(jax.random.key(0), vocabulary=task.vocabulary, context=task.length, width=width)
    train = Fresh(task, batch_size, jax.random.key(1))

    def run() -> None:
        gradflow.descend(
            transformer.loss, weights, train(0)[0][:1], stream=train, optimizer=optax.adam, learning_rate=learning_rate, steps=steps,
            save_steps=np.array([0, steps]), save=nothing, show_progress=False,
        ).require_complete()  # fmt: skip

    return run


def nothing(weights, batch):
    return weights.head[0, 0]


def by_torch(task: WindowSum, *, width: int, batch_size: int, learning_rate: float, steps: int, threads: int | None):
    """The same model in eager PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    threads = threads or torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(task.vocabulary, width)
            self.positions = nn.Embedding(task.length, width)
            self.norm_1, self.norm_2, self.norm = (nn.LayerNorm(width) for _ in range(3))
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.head = nn.Linear(width, task.vocabulary, bias=False)
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=transformer.INITIAL_SCALE, generator=generator)

        def forward(self, tokens):
            count = tokens.shape[1]
            x = self.tokens(tokens) + self.positions(torch.arange(count))
            q, k, v = self.qkv(self.norm_1(x)).chunk(3, dim=-1)
            x = x + self.out((q @ k.transpose(1, 2) / width**0.5).tril() @ v)
            x = x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))
            return self.head(self.norm(x))

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)

    def draw():
        x = torch.randint(1, task.p, (batch_size, task.n), generator=generator)
        y = torch.cat([x[:, :1], (x[:, 1:] + x[:, :-1]) % task.p], dim=1)
        return torch.cat([x, torch.full((batch_size, 1), task.p), y], dim=1)

    def run() -> None:
        torch.set_num_threads(threads)
        for _ in range(steps):
            tokens = draw()
            logits = model(tokens[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def steps_of(name: str) -> list[tuple[str, ...]]:
    """Seconds of a training step of one preset, by gradflow and by torch."""
    config = PRESETS[name]
    task = config.task_at_size()
    sizes = dict(
        width=config.width, batch_size=config.batch_size, learning_rate=config.learning_rate, steps=STEPS[name]
    )
    sides = {"gradflow": by_gradflow(task, **sizes)}
    if find_spec("torch"):
        sides |= {
            "torch": by_torch(task, **sizes, threads=None),
            "torch, one thread": by_torch(task, **sizes, threads=1),
        }
    seconds = {side: [each / STEPS[name] for each in times] for side, times in interleaved(sides, ROUNDS).items()}
    slower = {side: ratio(seconds[side], seconds["gradflow"]) for side in sides}
    rows = [(f"{name}: {side}", in_words(seconds[side]), f"{slower[side]:.2f}", "", "") for side in sides]
    if len(sides) > 1:
        least = min(slower[side] for side in sides if side != "gradflow")
        rows.append(
            (f"{name}: the faster torch", "", f"{least:.2f}", f">= {TARGETS[name]:g}", met(least >= TARGETS[name]))
        )
    return rows


def observing() -> tuple[str, ...]:
    """What all measures at the default schedule add to a run of preset small."""
    config = PRESETS["small"]
    task = config.task_at_size()
    weights = transformer.init(jax.random.key(0), vocabulary=task.vocabulary, context=task.length, width=config.width)
    streams = {
        "stream": Fresh(task, config.batch_size, jax.random.key(1)),
        "held_out": Fresh(task, config.held_out, jax.random.key(2)),
    }

    def run(save, every: int):
        return lambda: gradflow.descend(
            transformer.loss, weights, **streams, optimizer=optax.adam, learning_rate=config.learning_rate, steps=config.steps,
            save_steps=np.arange(0, config.steps + 1, every), save=save, show_progress=False,
        )  # fmt: skip

    seconds = interleaved({"all": run(Observer(task), config.save_every), "none": run(nothing, config.steps)}, ROUNDS)
    share = ratio(seconds["all"], seconds["none"]) - 1
    return (f"observing every {config.save_every} steps, of a run of {in_words(seconds['none'])}", in_words(seconds["all"]), f"{100 * share:.1f} %", "< 10 %", met(share < 0.1))  # fmt: skip


def main() -> None:
    gradflow.enable_x64()  # as scripts do; the weights have 32 bits
    if not find_spec("torch"):
        print("  without torch there is no row for it; to have it: pip install -e '.[benchmark]'")
    rows = [row for name in TARGETS for row in steps_of(name)]
    print_table([("training step", "time", "times gradflow's", "target", ""), *rows, observing()])


if __name__ == "__main__":
    main()
