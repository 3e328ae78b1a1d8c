import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from alignloop.errors import RunError
from alignloop.objectives.sft import SFT
from alignloop.training import checkpoint
from alignloop.training.checkpoint import load_checkpoint, save_checkpoint
from alignloop.training.loop import train_step
from tests.training.helpers import make_trainer, pair_groups, weights


def parts(trainer):
    return {"modules": {"model": trainer.model}, "optimizers": {"model": trainer.optimizer}}


def run_steps(trainer, count):
    for _ in range(count):
        train_step(trainer, SFT(), pair_groups(4, seed=trainer.step, k=1))


def test_resume_is_bit_identical(tmp_path):
    whole = make_trainer()
    run_steps(whole, 6)
    first = make_trainer()
    run_steps(first, 3)
    torch.manual_seed(123)
    save_checkpoint(tmp_path, step=3, state={"cursor": [1, 2]}, **parts(first))
    expected_random = torch.rand(3)
    second = make_trainer(seed=1)  # other weights, all replaced by the checkpoint
    restored = load_checkpoint(tmp_path, **parts(second))
    assert restored is not None
    assert restored.step == 3
    assert restored.state == {"cursor": [1, 2]}
    assert torch.equal(torch.rand(3), expected_random)
    second.step = restored.step
    run_steps(second, 3)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name


def test_a_checkpoint_cut_short_is_passed_over_and_named(tmp_path):
    trainer = make_trainer()
    for step in (1, 2):
        run_steps(trainer, 1)
        save_checkpoint(tmp_path, step=step, **parts(trainer))
    file = tmp_path / "step-00000002" / "weights-model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    restored = load_checkpoint(tmp_path, **parts(trainer))
    assert restored is not None
    assert restored.step == 1
    assert restored.skipped == ("step-00000002 (weights-model.safetensors is missing or cut short)",)


def test_a_changed_byte_is_noticed(tmp_path):
    trainer = make_trainer()
    save_checkpoint(tmp_path, step=1, **parts(trainer))
    file = tmp_path / "step-00000001" / "weights-model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="has changed since it was written"):
        load_checkpoint(tmp_path, **parts(trainer))


def test_disk_full_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    trainer = make_trainer()
    save_checkpoint(tmp_path, step=1, **parts(trainer))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match="the disk is full; the last good one is step-00000001"):
        save_checkpoint(tmp_path, step=2, **parts(trainer))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


def test_only_the_newest_are_kept(tmp_path):
    trainer = make_trainer()
    for step in range(1, 6):
        save_checkpoint(tmp_path, step=step, keep=2, **parts(trainer))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_file_named_as_a_checkpoint_is_none(tmp_path):
    trainer = make_trainer()
    (tmp_path / "step-00000009").write_text("somebody's notes", encoding="utf-8")
    save_checkpoint(tmp_path, step=1, keep=1, **parts(trainer))
    assert load_checkpoint(tmp_path, **parts(trainer)).step == 1
    assert (tmp_path / "step-00000009").is_file()


@pytest.mark.parametrize("schema", [0, 1, 3])
def test_a_manifest_of_another_schema_is_refused(tmp_path, schema):
    """Schema 1 had no digest of the manifest: one that has it was changed."""
    path = save_checkpoint(tmp_path, step=1, **parts(make_trainer()))
    manifest = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    (path / "checkpoint.json").write_text(json.dumps({**manifest, "schema": schema}), encoding="utf-8")
    with pytest.raises(RunError, match=f"schema {schema} is not one of this version's"):
        checkpoint.read_manifest(path)


def test_another_models_checkpoint_is_refused(tmp_path):
    trainer = make_trainer()
    save_checkpoint(tmp_path, step=1, **parts(trainer))
    with pytest.raises(RunError, match="belongs to another model"):
        load_checkpoint(tmp_path, **parts(make_trainer(head=True)))


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "missing", **parts(make_trainer())) is None
    shutil.rmtree(tmp_path)


def test_digests_are_blake2b_of_16_bytes(tmp_path):
    """What is written today is read by later versions, so the manifest's form is fixed."""
    path = save_checkpoint(tmp_path, step=1, state={"b": (1, 2), "a": "ä"}, **parts(make_trainer()))
    manifest = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    own = manifest.pop("blake2b")
    text = json.dumps(manifest, sort_keys=True).encode("utf-8")
    assert own == hashlib.blake2b(text, digest_size=16).hexdigest()
    assert (manifest["schema"], manifest["step"], manifest["state"]) == (2, 1, {"a": "ä", "b": [1, 2]})
    names = {"weights-model.safetensors", "optimizer-model.safetensors", "state.safetensors"}
    assert manifest["files"].keys() == names == {file.name for file in path.iterdir()} - {"checkpoint.json"}
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        assert entry == {"bytes": len(content), "blake2b": digest}


def test_a_checkpoint_is_made_in_its_own_folder(tmp_path, monkeypatch):
    """A rename from another file system would not be one step; and the next save clears up after a kill."""
    folder, seen = tmp_path / "of" / "a run", []
    plain = checkpoint.save_file

    def watched(tensors, file):
        seen.append(Path(file).parent)
        plain(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", watched)
    save_checkpoint(folder, step=1, **parts(make_trainer()))
    (folder / ".step-00000002-killed.tmp").mkdir()
    (folder / "notes.tmp").write_text("somebody's", encoding="utf-8")
    save_checkpoint(folder, step=2, **parts(make_trainer()))
    assert {path.parent for path in seen} == {folder}
    assert all(path.name.startswith(".step-") and path.suffix == ".tmp" for path in seen)
    assert {p.name for p in folder.iterdir()} == {"step-00000001", "step-00000002", "notes.tmp"}


def test_what_cannot_be_removed_does_not_stop_a_save(tmp_path, monkeypatch):
    trainer = make_trainer()
    killed = tmp_path / ".step-00000001-killed.tmp"
    killed.mkdir()
    (killed / "weights-model.safetensors").touch()
    save_checkpoint(tmp_path, step=1, **parts(trainer))

    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "unlink", denied)
    save_checkpoint(tmp_path, step=2, keep=1, **parts(trainer))
    monkeypatch.undo()
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000001", "step-00000002"}


@pytest.mark.parametrize("keep", [0, 1])
def test_one_checkpoint_always_stays(tmp_path, keep):
    trainer = make_trainer()
    for step in (9, 10):
        save_checkpoint(tmp_path, step=step, keep=keep, **parts(trainer))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


def test_moments_and_tensors_come_back(tmp_path):
    """Adam's moments by parameter and name, and the caller's tensors, without the random state."""
    trainer = make_trainer()
    run_steps(trainer, 2)
    rows = torch.arange(6).view(2, 3)
    save_checkpoint(tmp_path, step=2, tensors={"rows": rows}, **parts(trainer))
    fresh = make_trainer(seed=1)
    restored = load_checkpoint(tmp_path, **parts(fresh))
    assert restored is not None
    assert restored.tensors.keys() == {"rows"}
    assert torch.equal(restored.tensors["rows"], rows)
    before, after = (t.optimizer.state_dict()["state"] for t in (trainer, fresh))
    assert before.keys() == after.keys()
    for number, entry in before.items():
        assert entry.keys() == after[number].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, after[number][name]) for name, value in entry.items())


def test_a_checkpoint_without_a_part_is_of_another_run(tmp_path):
    trainer = make_trainer()
    save_checkpoint(tmp_path, step=1, modules={"model": trainer.model}, optimizers={})
    with pytest.raises(RunError, match=r"another kind of run: it has no optimizer-model\.safetensors"):
        load_checkpoint(tmp_path, **parts(trainer))


def test_a_file_that_is_missing_is_told(tmp_path):
    path = save_checkpoint(tmp_path, step=1, **parts(make_trainer()))
    assert checkpoint.damage(path) is None
    (path / "state.safetensors").unlink()
    assert checkpoint.damage(path) == "state.safetensors is missing or cut short"
    (path / "state.safetensors").mkdir()
    assert checkpoint.damage(path) == "state.safetensors is missing or cut short"
