"""Files that AlignLoop writes and reads back: one sentence for what is wrong with them, or with the disk."""

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NotRequired

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from typing_extensions import TypedDict

from alignloop import io
from alignloop.errors import DiskError, ModelError, RunError
from alignloop.foreign import read_mapping, read_state
from alignloop.io import replace_folder, write_whole, writing
from alignloop.model.packed import ScalarHead
from alignloop.model.save import save_model
from alignloop.model.scorer import save_head
from alignloop.model.tiny import tiny_model
from alignloop.runs import Run
from alignloop.runs.value_cache import ValueCache
from alignloop.training.checkpoint import load_checkpoint, save_checkpoint
from alignloop.training.reference import _keep  # pyright: ignore[reportPrivateUsage]


class Shape(TypedDict):
    number: int
    names: list[str]
    more: NotRequired[float]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"number": 1, "names": []}', ""),
        (b'{"number": 1, "names": ["a"], "more": 2, "other": null}', ""),
        (b'{"number": 1, "nam', "no JSON or cut short"),
        (b"", "no JSON or cut short"),
        (b"[]", "should be a valid dictionary"),
        (b"3", "should be a valid dictionary"),
        (b'{"number": 1}', "'names': field required"),
        (b'{"number": true, "names": []}', "'number'"),
        (b'{"number": "1", "names": []}', "'number'"),
        (b'{"number": 1.5, "names": []}', "'number'"),
        (b'{"number": 1, "names": ["a", 2]}', r"'names\.1'"),
        (b'{"number": 1, "names": {"a": 1}}', "'names'"),
        (b"\xff\xfe", "is not UTF-8|no JSON"),
        (b"[" * 100_000, "nested too deeply|no JSON"),
    ],
)
def test_a_state_file_is_read_or_one_sentence(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content)
    if not fault:
        assert read_state(file, Shape, remedy="remove it")["number"] == 1
        return
    with pytest.raises(RunError, match=fault) as raised:
        read_state(file, Shape, remedy="remove it")
    assert str(raised.value).startswith(f"{file} is damaged: ")
    assert str(raised.value).endswith("; remove it")
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError):
        read_state(file, Shape, remedy="remove it", error=ModelError)


def test_a_missing_state_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: no such file or directory; run again"):
        read_state(tmp_path / "none.json", Shape, remedy="run again")


@pytest.mark.parametrize("content", ["- 1\n", "a: [1\n", "3\n", "1: 2\n", "", "a: !!python/object:x.Y {}\n"])
def test_a_recipe_of_another_shape(tmp_path: Path, content: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"recipe\.yaml is damaged: .*; put it back"):
        read_mapping(file, remedy="put it back")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; .*free some space"),
        (OSError(errno.EDQUOT, "Quota"), "the disk quota is used up; .*free some space"),
        (OSError(errno.EROFS, "Read-only"), "the file system is read-only; .*make it writable"),
        (PermissionError(errno.EACCES, "Denied"), "permission denied; .*make it writable"),
        (OSError(errno.EBUSY, "busy"), ".*busy"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (Exception("No space left on device (os error 28)"), "the disk is full"),  # as tokenizers raise it
    ],
)
def test_what_a_failed_write_says(error: Exception, reason: str) -> None:
    with pytest.raises(DiskError, match=f"^x.json could not be written: {reason}"), writing("x.json"):
        raise error


def test_other_errors_pass_a_write() -> None:
    for error in (ValueError("bad"), KeyboardInterrupt(), RunError("other"), Exception("(os error)")):
        with pytest.raises(type(error)) as raised, writing("x.json"):
            raise error
        assert raised.value is error
    with pytest.raises(PermissionError), writing("x.json", only=io.FULL):  # may come of a read
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(io, "_exchange", lambda one, other: False)
    for content in ("old", "new"):
        made = tmp_path / "made"
        made.mkdir()
        (made / "file").write_text(content, encoding="utf-8")
        replace_folder(made, tmp_path / "target")
        assert (tmp_path / "target" / "file").read_text(encoding="utf-8") == content
        assert [p.name for p in tmp_path.iterdir()] == ["target"]


# A full disk at every place that writes


def _checkpoint(folder: Path, step: int) -> None:
    torch.manual_seed(step)
    save_checkpoint(folder, step=1, modules={"model": nn.Linear(2, 2)}, optimizers={}, keep=2)


def _model(folder: Path, step: int) -> None:
    model, tokenizer = tiny_model(hidden_size=16, num_layers=1, seed=step)
    save_model(model, tokenizer, folder / "model")


def _head(folder: Path, step: int) -> None:
    folder.mkdir(exist_ok=True)
    save_head(ScalarHead(4, 1, seed=step), folder)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "state": lambda folder, step: write_whole(folder / "run.json", json.dumps({"step": step})),
    "rows": lambda folder, step: write_whole(folder / "rows.jsonl", [json.dumps({"step": step}) + "\n"]),
    "checkpoint": _checkpoint,
    "model": _model,
    "head": _head,
    "reference": lambda folder, step: _keep(folder / "x.safetensors", np.full(3, step, np.float32)),
    "memory": lambda folder, step: ValueCache(folder / "m.jsonl").put("key", step),
}


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    write = WRITERS[name]
    write(tmp_path, 1)
    before = _content(tmp_path)
    refused = _refuse_writes(monkeypatch, tmp_path, number)
    with pytest.raises(DiskError, match=r"could not be written: the (disk is full|file system is read-only)"):
        write(tmp_path, 2)
    assert refused
    monkeypatch.undo()
    assert _content(tmp_path) == before
    write(tmp_path, 2)
    assert _content(tmp_path) != before


def _refuse_writes(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> list[str]:
    """Let every opening for writing, folder and rename below `folder` fail from now on."""
    refused: list[str] = []

    def wrap(original: Callable[..., object], *, writes: Callable[..., bool]) -> Callable[..., object]:
        def call(path: object, *args: object, **keys: object) -> object:
            if str(path).startswith(str(folder)) and writes(*args, **keys):
                refused.append(str(path))
                raise OSError(number, os.strerror(number), str(path))
            return original(path, *args, **keys)

        return call

    opens = wrap(os.open, writes=lambda flags, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR)))
    monkeypatch.setattr(os, "open", opens)
    monkeypatch.setattr(
        "builtins.open", wrap(open, writes=lambda mode="r", *_, **__: any(c in str(mode) for c in "wax+"))
    )
    for call in ("mkdir", "rename", "replace"):
        monkeypatch.setattr(os, call, wrap(getattr(os, call), writes=lambda *_, **__: True))
    return refused


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=2m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    assert os.system(f"umount -l {folder}") == 0


def _fill(folder: Path, leave: int) -> Path:
    """Fill the disk but for so many bytes."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as handle, suppress(OSError):
        while handle.tell() < 2**24:
            handle.write(b"x" * 4096)
    assert file.stat().st_size < 2**22
    os.truncate(file, max(0, file.stat().st_size - leave))
    return file


@pytest.mark.parametrize("leave", [0, 4096, 16384, 65536])
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_really_full(small_disk: Path, name: str, leave: int) -> None:
    folder, write = small_disk / "run", WRITERS[name]
    folder.mkdir()
    write(folder, 1)
    before = _content(folder)
    filler = _fill(small_disk, leave)
    try:
        write(folder, 2)
    except DiskError:
        found = _content(folder)
        if name == "memory":  # appended to: what was there is there, perhaps with a torn line after it
            assert found["m.jsonl"].startswith(before["m.jsonl"])
        else:
            assert found == before
    filler.unlink()
    write(folder, 2)
    if name == "memory":
        assert ValueCache(folder / "m.jsonl").get("key") == 2
    if name == "checkpoint":
        model = nn.Linear(2, 2)
        assert load_checkpoint(folder, modules={"model": model}, optimizers={}) is not None
        torch.manual_seed(2)
        assert torch.equal(model.weight, nn.Linear(2, 2).weight)


def test_a_run_on_a_full_disk_is_taken_up(small_disk: Path) -> None:
    def start() -> Run:
        return Run.create(small_disk / "run", stage="sft", config={"seed": 1}, seed=1)

    def fill(run: Run) -> None:
        with run:
            run.log(1, loss=0.5)
            _fill(small_disk, 0)
            for step in range(2, 2000):
                run.log(step, loss=0.5, text="x" * 100)

    with pytest.raises(DiskError, match=r"metrics\.jsonl could not be written: the disk is full"):
        fill(start())
    (small_disk / "filler").unlink()
    with start() as run:  # its end could not be recorded; it goes on all the same
        assert run.resumed
        steps = [row["step"] for row in run.metrics()]
        assert steps == list(range(1, len(steps) + 1))
        run.rewind(1)
        run.finish()
    assert [row["step"] for row in Run.open(small_disk / "run").metrics()] == [1]


def test_a_model_that_does_not_fit_on_the_disk(small_disk: Path) -> None:
    model, tokenizer = tiny_model(hidden_size=256, num_layers=4)
    with pytest.raises(DiskError, match="model could not be written: the disk is full"):
        save_model(model, tokenizer, small_disk / "model")
    assert list(small_disk.iterdir()) == []
    with pytest.raises(DiskError, match="none exists yet"):
        save_checkpoint(small_disk, step=3, modules={"model": model}, optimizers={})
    with pytest.raises(SafetensorError):  # what the library itself says
        save_file({"x": torch.zeros(2**20)}, small_disk / "x.safetensors")


def test_a_folder_is_readable_for_everybody(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    for path in (made / "weights", made / "inner" / "more"):
        path.write_text("x", encoding="utf-8")
        path.chmod(0o600)
    (made / "inner").chmod(0o700)
    replace_folder(made, tmp_path / "target")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "target").rglob("*")}
    assert modes == {"weights": 0o644, "inner": 0o755, "more": 0o644}


def test_a_new_file_makes_its_folder(tmp_path: Path) -> None:
    with io.new_file(tmp_path / "a" / "b" / "file") as made:
        made.write_text("x", encoding="utf-8")
    assert (tmp_path / "a" / "b" / "file").read_text(encoding="utf-8") == "x"
