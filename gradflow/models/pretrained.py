"""Pretrained language models: one revision of a checkpoint, from a folder or from the hub, with its tokenizer.

Pythia and OLMo-2 publish a revision a training step (Gopalani and Hu 2025, arXiv 2506.13688). `transformers` builds the
model and reads its weights; here is where they lie, which files they need, and what is said where one is missing. A local folder holds
a checkpoint, or a sub-folder a revision; weights are read from safetensors, and where there are none from pytorch_model.bin. Needs
the extra `llm`.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from gradflow.errors import InputError, first_line, require, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
# the revisions that the paper measures, of EleutherAI/pythia-14m, -1b, -1.4b, -2.8b and of allenai/OLMo-2-1124-7B
PYTHIA_REVISIONS = tuple(f"step{step}" for step in (0, *(2**i for i in range(10)), 1000, 2000, 4000, 8000, 10000))
OLMO_REVISIONS = ("stage1-step150-tokens1B", "stage1-step600-tokens3B")
_LIBRARIES = ("torch", "transformers", "safetensors", "huggingface_hub")


class Pretrained(NamedTuple):
    """A causal language model of `transformers`, in evaluation mode, and the tokenizer that its revision comes with."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


def load(
    name: str | Path,
    revision: str | None = None,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["cpu", "cuda"] = "cpu",
) -> Pretrained:
    """One revision of a model, from a folder or from the hub; `dtype` is that of weights and hidden states.

    Raises `InputError` for a missing package, folder, model, revision or file, a file that cannot be read, and weights that lack a
    tensor of the model, which would otherwise be drawn at random.
    """
    need_libraries()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    require(device != "cuda" or torch.cuda.is_available(), "There is no CUDA device here; use the device cpu.")
    folder = folder_of(name, revision)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model, told = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), output_loading_info=True, **options
            )
    except Exception as error:  # of json, safetensors, tokenizers, torch or transformers
        raise InputError(
            f"The checkpoint in {folder} cannot be read ({type(error).__name__}: {shortened(first_line(error))}); download it again."
        ) from error
    lacking = sorted(told["missing_keys"])
    require(not lacking, f"The weights in {folder} lack {len(lacking)} tensors of the model, such as {lacking[:1]}.")
    return Pretrained(model.to(device).eval(), tokenizer)


def need_libraries() -> None:
    """Raise `InputError` unless the packages of the extra `llm` are installed."""
    lacking = [name for name in _LIBRARIES if find_spec(name) is None]
    require(not lacking, f"Language models need {', '.join(lacking)}: pip install 'gradflow-dynamics[llm]'.")


def step_of(revision: str | None) -> float:
    """The training step in the name of a revision, such as step512 or stage1-step150-tokens1B; NaN where there is none."""
    found = re.search(r"step(\d+)", revision or "")
    return float(found[1]) if found else math.nan


def revisions_of(name: str | Path, revisions: Sequence[str] = ()) -> list[str | None]:
    """The revisions to load: those asked for, or else all of a local folder, by step, or else the hub's main one.

    Those of a local folder are looked for at once, so that no run begins that cannot end.
    """
    if not Path(name).is_dir():
        _require_hub_name(str(name))
        return list(revisions) or [None]
    if not revisions and not (Path(name) / CONFIG).is_file():
        revisions = _sub_folders(Path(name))
        require(len(revisions) > 0, f"{name} holds no checkpoint: no {CONFIG}, nor a sub-folder a revision with one.")
    for revision in revisions or [None]:
        folder_of(name, revision)
    return list(revisions) or [None]


def folder_of(name: str | Path, revision: str | None = None) -> Path:
    """The local folder of a revision, with all files that it takes; downloaded where `name` is no folder.

    Raises `InputError` that names what is missing.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name), revision)
    elif revision is not None:
        known = ", ".join(_sub_folders(folder)) or "none"
        require((folder / revision).is_dir(), f"{name} has no revision {revision!r}; there are: {known}.")
        folder = folder / revision
    missing = list(_missing(folder))
    require(not missing, f"The checkpoint in {folder} lacks {', '.join(missing)}.")
    return folder


def _sub_folders(folder: Path) -> list[str]:
    """Those that hold a checkpoint, by step; names without one last."""
    found = [path.parent.name for path in folder.glob(f"*/{CONFIG}")]
    return sorted(found, key=lambda name: (math.isnan(step_of(name)), step_of(name), name))


def _missing(folder: Path) -> Iterator[str]:
    """What a checkpoint needs and has not; of weights in several files, an index names them."""
    yield from (name for name in (CONFIG, TOKENIZER) if not (folder / name).is_file())
    for weights in WEIGHTS:
        index = folder / f"{weights}.index.json"
        if (folder / weights).is_file():
            return
        if index.is_file():
            try:
                parts = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{index} is no index of weights; download it again.") from error
            yield from sorted(name for name in parts if not (folder / name).is_file())
            return
    yield " or ".join(WEIGHTS)


def _require_hub_name(name: str) -> None:
    """The hub's names are NAME or OWNER/NAME; anything else can only be a folder that is not there."""
    require(bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name)), f"There is no folder {name}.")


def _download(name: str, revision: str | None) -> Path:
    """The folder, in the hub's cache, of what a revision needs: the other format's weights are left where they are."""
    _require_hub_name(name)
    need_libraries()
    from huggingface_hub import errors, snapshot_download

    asked = f"the revision {revision!r}" if revision else "the main revision"
    try:
        for weights in WEIGHTS:
            pattern = weights.replace(".", "*.")
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=["*.json", "*.txt", pattern], ignore_patterns=["*/*"]
                )
            )
            if any(folder.glob(pattern)):
                break
        return folder
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name} has no revision {revision!r} on the hub.") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"There is no folder {name}, nor a model of that name on the hub that anybody may read."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"There is no folder {name}, and {asked} of the model is not in the hub's cache and cannot be downloaded: no network?"
        ) from error
    except Exception as error:  # of the network, by whichever client the hub's library has
        raise InputError(f"Cannot download {asked} of {name}: {shortened(first_line(error))}.") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars and warnings of `transformers`: what matters of them is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
