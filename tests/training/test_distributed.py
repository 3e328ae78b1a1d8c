"""Two gloo ranks give the numbers of one process."""

import json
import os
import subprocess
import sys

import pytest

from alignloop.objectives.sft import SFT
from alignloop.training.loop import train
from tests.training.helpers import make_trainer, pair_groups

SCRIPT = """
import json, sys
from alignloop.objectives.sft import SFT
from alignloop.training import distributed
from alignloop.training.loop import train
from tests.training.helpers import make_trainer, pair_groups
distributed.start()
trainer = make_trainer()
reports = list(train(trainer, SFT(), [pair_groups(5, seed=s, k=1) for s in range(3)]))
if distributed.world()[0] == 0:
    total = sum(float(p.double().sum()) for p in trainer.model.parameters())
    losses, norms = ([r.metrics[name] for r in reports] for name in ("loss", "grad_norm"))
    print("RESULT", json.dumps([losses, norms, total]))
"""


def test_two_ranks_equal_one():
    trainer = make_trainer()
    reports = list(train(trainer, SFT(), [pair_groups(5, seed=s, k=1) for s in range(3)]))
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29671", "WORLD_SIZE": "2"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks)
    losses, norms, total = json.loads(outputs[0].split("RESULT", 1)[1])
    assert losses == pytest.approx([r.metrics["loss"] for r in reports], rel=1e-5)
    assert norms == pytest.approx([r.metrics["grad_norm"] for r in reports], rel=1e-4)
    ours = sum(float(p.detach().double().sum()) for p in trainer.model.parameters())
    assert total == pytest.approx(ours, rel=1e-4)
