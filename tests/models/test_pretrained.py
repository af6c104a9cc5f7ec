"""Loading checkpoints: the real library writes them, from folders and from a hub on this machine; what is missing is named.

Folders are judged without torch; what reads weights is left out where the extra `llm` is not installed.
"""

import json
import math
import sys

import pytest

from gradflow import InputError
from gradflow.models import pretrained, random_checkpoints
from gradflow.models.pretrained import folder_of, load, revisions_of, step_of
from tests.models.hub import hub


@pytest.fixture(scope="module")
def libraries():
    """Torch, where the whole extra is there."""
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def models(libraries, tmp_path_factory):
    """Both models, each with two revisions in safetensors and a last one in pytorch_model.bin."""
    folder = tmp_path_factory.mktemp("models")
    random_checkpoints.write(folder, ["step0", "step2", "step10"])
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a file of every name that a checkpoint needs, and nothing in them."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", random_checkpoints.MODELS)
@pytest.mark.parametrize("revision", ["step2", "step10"])
def test_the_weights_that_were_written_are_read_from_either_format(models, libraries, name, revision):
    """The revisions' draws are told apart by their seeds: j of model i is draw 3 i + j."""
    i, j = random_checkpoints.MODELS.index(name), ["step0", "step2", "step10"].index(revision)
    kept = {path.name for path in (models / name / revision).iterdir()}
    assert ("pytorch_model.bin" in kept) == (revision == "step10") and ("model.safetensors" in kept) != (revision == "step10")  # fmt: skip
    model, tokenizer = load(models / name, revision)
    written = random_checkpoints.draw(name, seed=3 * i + j).state_dict()
    assert written.keys() == model.state_dict().keys() and not model.training
    assert all(libraries.equal(written[key], value) for key, value in model.state_dict().items())
    assert tokenizer.decode(tokenizer("Ice floats.")["input_ids"]) == "Ice floats."
    assert len(tokenizer("Ice, é")["input_ids"]) == len("Ice, é".encode())  # a token a byte


def test_a_checkpoint_of_pythias_age_is_read_as_it_was_meant(libraries, tmp_path):
    """Its configuration has other names for the rotation, and its weights hold buffers that are no weights any more."""
    folder, rotation = tmp_path / "old", {"rotary_pct": 0.5, "rotary_emb_base": 500}
    model = random_checkpoints.draw("gpt-neox", seed=5, **rotation)
    random_checkpoints.save(folder, model, "pytorch_model.bin")
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "layer_norm_eps", "max_position_embeddings", "model_type")  # fmt: skip
    config = {name: value for name, value in json.loads((folder / "config.json").read_text()).items() if name in kept}
    config |= rotation | {"hidden_act": "gelu", "use_parallel_residual": True, "torch_dtype": "float16", "transformers_version": "4.24.0"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    weights = libraries.load(folder / "pytorch_model.bin", weights_only=True)
    weights["gpt_neox.layers.0.attention.bias"] = libraries.ones(1, 1, 8, 8, dtype=libraries.bool).tril()
    weights["gpt_neox.layers.0.attention.masked_bias"] = libraries.tensor(-1e9)
    weights["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = libraries.zeros(2)
    libraries.save(weights, folder / "pytorch_model.bin")
    ids = libraries.arange(20)[None]
    old = load(folder).model
    assert old.dtype == libraries.float32
    assert libraries.equal(old(ids).logits, model(ids).logits)
    assert not libraries.equal(random_checkpoints.draw("gpt-neox", seed=5)(ids).logits, model(ids).logits)


def test_safetensors_are_read_first(models, libraries, tmp_path):
    folder = tmp_path / "both"
    random_checkpoints.save(folder, random_checkpoints.draw("olmo-2", seed=1))
    libraries.save(random_checkpoints.draw("olmo-2", seed=2).state_dict(), folder / "pytorch_model.bin")
    read, first = (each.lm_head.weight for each in (load(folder).model, random_checkpoints.draw("olmo-2", seed=1)))
    assert libraries.equal(read, first)


def test_weights_are_of_the_number_format_asked_for_and_in_several_files_where_an_index_says_so(libraries, tmp_path):
    model = random_checkpoints.draw("gpt-neox", seed=0)
    random_checkpoints.save(tmp_path / "one", model)
    assert load(tmp_path / "one", dtype="bfloat16").model.dtype == libraries.bfloat16
    with pretrained.quiet():
        model.save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    random_checkpoints.bytes_as_tokens().save_pretrained(tmp_path / "parts")
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 1
    assert libraries.equal(
        load(tmp_path / "parts").model.get_output_embeddings().weight, model.get_output_embeddings().weight
    )
    parts[1].unlink()
    with pytest.raises(InputError, match=f"lacks {parts[1].name}"):
        load(tmp_path / "parts")
    (tmp_path / "parts" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match="no index of weights"):
        load(tmp_path / "parts")


def test_loading_says_nothing_and_leaves_the_librarys_own_settings(models, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(models / "olmo-2", "step0")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_ends_early_is_one_sentence(libraries, tmp_path, name):
    random_checkpoints.save(tmp_path / "cut", random_checkpoints.draw("gpt-neox", seed=0))
    whole = (tmp_path / "cut" / name).read_bytes()
    (tmp_path / "cut" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut cannot be read \(\w+: .*download it again\.") as caught:
        load(tmp_path / "cut")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt-neox", "olmo-2"])
def test_a_tensor_that_the_weights_lack_is_not_drawn_at_random(libraries, tmp_path, name):
    model = random_checkpoints.draw(name, seed=0)
    random_checkpoints.save(tmp_path / "lacking", model, "pytorch_model.bin")
    kept = model.state_dict()
    key = next(key for key in kept if "layers.1" in key)
    libraries.save({k: v for k, v in kept.items() if k != key}, tmp_path / "lacking" / "pytorch_model.bin")
    with pytest.raises(InputError, match=rf"lack 1 tensors of the model, such as \['{key}'\]"):
        load(tmp_path / "lacking")


class _Writes:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_runs_no_code(libraries, tmp_path):
    """A pytorch_model.bin is a pickle, which could."""
    model = random_checkpoints.draw("gpt-neox", seed=0)
    random_checkpoints.save(tmp_path / "bad", model, "pytorch_model.bin")
    libraries.save(
        model.state_dict() | {"more": _Writes(tmp_path / "was_here")}, tmp_path / "bad" / "pytorch_model.bin"
    )
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "bad")
    assert not (tmp_path / "was_here").exists()


def test_a_device_that_is_not_there_is_refused(models, libraries, monkeypatch):
    monkeypatch.setattr(libraries.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device"):
        load(models / "olmo-2", "step0", device="cuda")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "lacks config.json"),
        ("tokenizer.json", "lacks tokenizer.json"),
        ("model.safetensors", r"lacks model\.safetensors or pytorch_model\.bin"),
    ],
)
def test_a_missing_file_is_named(checkpoint, name, message):
    assert folder_of(checkpoint) == checkpoint
    (checkpoint / name).unlink()
    with pytest.raises(InputError, match=message):
        folder_of(checkpoint)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no folder .*/nowhere\.$"):
        folder_of(tmp_path / "nowhere")


def test_revisions_of_a_folder_are_its_sub_folders_by_step(tmp_path, checkpoint):
    for name in ("step10", "step2", "main", "step0"):
        (tmp_path / "model" / name).mkdir(parents=True)
        for file in checkpoint.glob("*.*"):
            (tmp_path / "model" / name / file.name).write_text("{}")
    (tmp_path / "model" / "logs").mkdir()
    assert revisions_of(tmp_path / "model") == ["step0", "step2", "step10", "main"]
    assert revisions_of(tmp_path / "model", ["step2"]) == ["step2"]
    assert revisions_of(checkpoint) == [None]
    assert revisions_of("owner/name") == [None] and revisions_of("owner/name", ["step1"]) == ["step1"]
    with pytest.raises(InputError, match="no revision 'step3'; there are: step0, step2, step10, main"):
        revisions_of(tmp_path / "model", ["step2", "step3"])
    with pytest.raises(InputError, match="logs holds no checkpoint"):
        revisions_of(tmp_path / "model" / "logs")


def test_the_training_step_is_read_from_a_revisions_name():
    assert step_of("step512") == 512 and step_of("stage1-step150-tokens1B") == 150
    assert math.isnan(step_of("main")) and math.isnan(step_of(None))


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named_with_what_to_type(monkeypatch, package, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"need.* {package}.*: pip install 'gradflow-dynamics\[llm\]'"):
        load(tmp_path)


@pytest.fixture
def local_hub(models, tmp_path, monkeypatch):
    """The hub's client, sent to a hub on this machine that has both models, and a cache of its own; gives the files asked for."""
    from huggingface_hub import constants

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "owner").symlink_to(models)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub(tmp_path / "served") as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield asked


@pytest.mark.parametrize(
    ("revision", "weights"), [("step2", "model.safetensors"), ("step10", "pytorch_model.bin"), ("both", "model.safetensors")]
)  # fmt: skip
def test_a_revision_of_the_hub_is_downloaded_once_safetensors_first(models, local_hub, libraries, revision, weights):
    if revision == "both" and not (models / "olmo-2" / "both").exists():
        random_checkpoints.save(models / "olmo-2" / "both", random_checkpoints.draw("olmo-2", seed=1))
        (models / "olmo-2" / "both" / "pytorch_model.bin").write_bytes(b"not asked for")
        (models / "olmo-2" / "both" / "README.md").write_text("nor is this")
    read, local = load("owner/olmo-2", revision).model, load(models / "olmo-2", revision).model
    assert all(map(libraries.equal, read.state_dict().values(), local.state_dict().values()))
    files = {path.name for path in (models / "olmo-2" / revision).iterdir()} - {"README.md"}
    assert set(local_hub) == (files - {"pytorch_model.bin"} if revision == "both" else files)
    count = len(local_hub)
    assert count == len(set(local_hub)) and weights in local_hub
    load("owner/olmo-2", revision)
    assert len(local_hub) == count


def test_what_the_hub_lacks_is_named(local_hub, monkeypatch):
    with pytest.raises(InputError, match="owner/olmo-2 has no revision 'step3' on the hub"):
        load("owner/olmo-2", "step3")
    with pytest.raises(InputError, match="no folder owner/other, nor a model of that name"):
        load("owner/other", "step0")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(
        InputError, match=r"the revision 'step0' of the model is not in the hub's cache.*no network"
    ) as caught:
        load("owner/olmo-2", "step0")
    assert "\n" not in str(caught.value)


def test_a_download_that_breaks_off_is_one_sentence(libraries, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("The server left.\nIt said nothing.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(InputError, match=r"^Cannot download the main revision of owner/name: The server left\.+$"):
        load("owner/name")


def test_a_revision_in_the_hubs_cache_needs_no_network(local_hub, monkeypatch):
    from huggingface_hub import constants

    for revision in ("step2", "step10"):
        folder = folder_of("owner/gpt-neox", revision)
        with monkeypatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
            assert folder_of("owner/gpt-neox", revision) == folder


def test_an_index_that_is_whole_asks_for_its_parts_alone(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    index = checkpoint / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}))
    (checkpoint / "pytorch_model-2.bin").touch()
    with pytest.raises(InputError, match=r"lacks pytorch_model-1\.bin\.$"):
        folder_of(checkpoint)
