"""Do language models repeat themselves early in training, and do their hidden states collapse? Pythia and OLMo-2 over revisions.

Gopalani and Hu (2025), arXiv 2506.13688, of Pythia and OLMo-2: eight tokens are generated greedily after each question; COS is the mean cosine between
the hidden states of two steps, rho the share of equal neighbours among the tokens. Needs `pip install 'gradflow-dynamics[llm]'`.
The preset `small` runs on tiny models with random weights, whose "revisions" are independent draws: it shows that the path from a
checkpoint to a picture works, and says nothing about language models. `paper` and `olmo` download theirs from the hub, a revision at
a time; for the paper's questions give --questions arc_easy.jsonl, which this makes (pip install datasets):
  python -c "from datasets import load_dataset as load; load('allenai/ai2_arc', 'ARC-Easy', split='test[:100]').to_json('arc_easy.jsonl')"
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.models.pretrained import OLMO_REVISIONS, PYTHIA_REVISIONS
from gradflow.scripts import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "paper", "olmo"] = "small"
    """small: random weights, seconds. paper: Pythia 14m from the hub. olmo: OLMo-2 7B from the hub, 28 GB of memory in float32"""
    out: Path = Path("runs/language_models")
    """folder that receives config.json, language_models.nc, claims.json and the picture"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the random weights; pretrained models are answered greedily and take none"""
    models: tuple[str, ...] = ()
    """names on the hub, such as EleutherAI/pythia-1b, or folders with a checkpoint, or with one a sub-folder; none: random weights"""
    revisions: tuple[str, ...] = ()
    """of every model; none: all sub-folders of a folder, or the hub's main one"""
    questions: Path | None = None
    """text file with a question a line, or .jsonl with a field `question`; none: a few of our own"""
    count: int = 100
    """questions to ask, the first ones of the file"""
    batch: int = 16
    """questions at a time"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of weights and hidden states"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where to compute"""


RANDOM = ("step0", "step1", "step10", "step100")
PRESETS = {
    "small": Config(),
    "paper": Config(preset="paper", models=("EleutherAI/pythia-14m",), revisions=PYTHIA_REVISIONS),
    "olmo": Config(preset="olmo", models=("allenai/OLMo-2-1124-7B",), revisions=OLMO_REVISIONS),
}


def prepare(config: Config) -> "tuple[tuple[str, ...], list[tuple[str, str | None]]]":
    """The questions, and the checkpoints by model and revision. Refuses what cannot be run."""
    from gradflow.errors import require
    from gradflow.models.pretrained import need_libraries, revisions_of
    from gradflow.tasks import questions

    need_libraries()
    require(config.batch >= 1, f"batch must be positive, got {config.batch}.")
    require(len(set(config.models)) == len(config.models), "A model comes twice.")
    require(len(set(config.revisions)) == len(config.revisions), "A revision comes twice.")
    found = [(name, revision) for name in config.models for revision in revisions_of(name, config.revisions)]
    return questions.read(config.questions, config.count), found


def solve(config: Config, questions, checkpoints) -> "Iterator[xr.Dataset]":
    """What is seen, a dataset after each checkpoint: of it and of those before."""
    from tempfile import TemporaryDirectory

    from gradflow.dynamics import progress
    from gradflow.models import random_checkpoints
    from gradflow.models.pretrained import load
    from gradflow.observe.language_models import answer, dataset, observe

    told = {"questions": str(config.questions or "own"), "dtype": config.dtype}
    seen = {}
    with TemporaryDirectory() as scratch:
        found = [(name, name, revision) for name, revision in checkpoints]
        if not config.models:
            told["weights"] = "random: nothing is said about language models"
            names = random_checkpoints.write(Path(scratch), config.revisions or RANDOM, config.seed)
            found = [
                (f"random {path.name}", path, revision) for path in names for revision in config.revisions or RANDOM
            ]
        with progress.bar(len(found), "checkpoint", "language models") as bar:
            for model, place, revision in found:
                bar.set_postfix_str(f"{model} {revision or ''}")
                network, tokenizer = load(place, revision, dtype=config.dtype, device=config.device)
                tokens = [tokenizer(question)["input_ids"] for question in questions]
                seen[model, revision or "main"] = observe(answer(network, tokens, batch=config.batch))
                bar.update()
                yield dataset(seen, **told)


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one run: COS and rho of every checkpoint, and the claims."""
    from gradflow.dynamics import progress
    from gradflow.theory import claims as ledger
    from gradflow.theory.language_models import claims

    with progress.silent():
        *_, seen = solve(config, *prepare(config))
    return seen[["cosine", "repetition"]].merge(ledger.dataset(claims(seen)))


def run(config: Config) -> None:
    """Ask every checkpoint, hold to what the paper reports, draw, and store everything in `config.out`, after each checkpoint."""
    from gradflow import store
    from gradflow.plotting.language_models import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory.language_models import claims

    prepared = prepare(config)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    for seen in solve(config, *prepared):
        store.save(folder, "language_models", seen)

    held = claims(seen)
    store.save_claims(folder, held)
    pictures = ", ".join(path.name for path in draw_all(seen, folder))
    print(f"{table(seen)}\n\n{ledger.table(held)}\n\n{ledger.summary(held)}")
    if not config.models:
        print("The weights are random: this tries the path and says nothing about language models.")
    print(f"In {folder}: language_models.nc, claims.json, {pictures}")


def table(seen) -> str:
    """The checkpoints, a line each."""
    width = max(map(len, seen["checkpoint"].values))
    lines = [f"{'checkpoint':<{width}}  COS     rho"]
    for name, cosine, repetition in zip(seen["checkpoint"].values, seen["cosine"].values, seen["repetition"].values, strict=True):  # fmt: skip
        lines.append(f"{name:<{width}}  {cosine:<6.3f}  {repetition:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
