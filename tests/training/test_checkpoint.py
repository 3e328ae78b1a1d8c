import errno
import shutil

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


def test_another_models_checkpoint_is_refused(tmp_path):
    trainer = make_trainer()
    save_checkpoint(tmp_path, step=1, **parts(trainer))
    with pytest.raises(RunError, match="belongs to another model"):
        load_checkpoint(tmp_path, **parts(make_trainer(head=True)))


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "missing", **parts(make_trainer())) is None
    shutil.rmtree(tmp_path)
