"""Tiny GPT-NeoX and OLMo-2 checkpoints with random weights, in the files that Pythia and OLMo-2 come in.

They try the way from a checkpoint to a measurement where no pretrained weights can be had. Their revisions are independent draws
and no training: numbers measured on them say nothing about language models.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.models.pretrained import WEIGHTS, need_libraries, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODELS = ("gpt-neox", "olmo-2")
_SIZES = {
    "vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": None,
}  # fmt: skip


def write(folder: Path, revisions: Sequence[str], seed: int = 0) -> list[Path]:
    """Write every model of MODELS as `folder`/MODEL/REVISION; returns the models' folders.

    The last revision of each is a pytorch_model.bin, the others are safetensors.
    """
    need_libraries()
    for i, name in enumerate(MODELS):
        for j, revision in enumerate(revisions):
            model = draw(name, seed=(seed * len(MODELS) + i) * len(revisions) + j)
            save(Path(folder) / name / revision, model, WEIGHTS[j == len(revisions) - 1])
    return [Path(folder) / name for name in MODELS]


def draw(name: str, seed: int, **sizes) -> "PreTrainedModel":
    """One model with random weights; `sizes` change its configuration. The state of torch's random numbers stays as it is."""
    import torch
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, Olmo2Config

    kind = {"gpt-neox": GPTNeoXConfig, "olmo-2": Olmo2Config}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(kind(**_SIZES | sizes)).eval()


def save(folder: Path, model: "PreTrainedModel", weights: str = WEIGHTS[0]) -> None:
    """Write a model, its weights in a file of that name, with the tokenizer of `bytes_as_tokens`."""
    import torch
    from safetensors.torch import load_file

    with quiet():
        model.save_pretrained(folder)
    bytes_as_tokens().save_pretrained(folder)
    if weights != WEIGHTS[0]:  # `transformers` reads these and no longer writes them
        torch.save(load_file(folder / WEIGHTS[0]), folder / weights)
        (folder / WEIGHTS[0]).unlink()


def bytes_as_tokens() -> "PreTrainedTokenizerBase":
    """Byte-pair encoding, as both models use, before its first merge: 256 bytes, and the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
