import sys
import types

import pytest

from alignloop.errors import EngineError, UserError
from alignloop.evaluation.harness import run_tasks
from alignloop.model.load import LoadedModel

MODEL = types.SimpleNamespace(generation_config=None)
LOADED = LoadedModel(MODEL, "tokenizer", "name")  # pyright: ignore


@pytest.fixture
def lm_eval(monkeypatch):
    """A module with the two names of lm-eval that are used, and what it was called with."""
    fake, models, huggingface = (types.ModuleType(f"lm_eval{end}") for end in ("", ".models", ".models.hf"))
    fake.calls = []
    fake.samples = {}
    huggingface.HFLM = lambda **keys: ("lm", keys)

    def simple_evaluate(**keys):
        fake.calls.append(keys)
        return {"results": {}, "samples": fake.samples}

    fake.simple_evaluate = simple_evaluate
    monkeypatch.setitem(sys.modules, "lm_eval", fake)
    monkeypatch.setitem(sys.modules, "lm_eval.models", models)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", huggingface)
    return fake


def test_documents_come_in_order_one_value_each(lm_eval):
    lm_eval.samples = {
        "arc": [{"doc_id": 1, "acc": 1.0, "acc_norm": 0.0}, {"doc_id": 0, "acc": 0.0, "acc_norm": 1.0}],
        "gsm8k": [
            {"doc_id": 0, "filter": "strict", "exact_match": 0.0},
            {"doc_id": 1, "filter": "strict", "exact_match": 1.0},
            {"doc_id": 0, "filter": "flexible", "exact_match": 1.0},
            {"doc_id": 1, "filter": "flexible", "exact_match": 1.0},
        ],
    }
    assert run_tasks(LOADED, ["arc", "gsm8k"], limit=2, seed=7) == {"arc": [1.0, 0.0], "gsm8k": [0.0, 1.0]}
    (keys,) = lm_eval.calls
    assert keys["model"] == ("lm", {"pretrained": MODEL, "tokenizer": "tokenizer"})
    assert (keys["tasks"], keys["limit"], keys["log_samples"]) == (["arc", "gsm8k"], 2, True)
    assert keys["fewshot_random_seed"] == 7


def test_a_task_without_a_known_metric_is_named(lm_eval):
    lm_eval.samples = {"odd": [{"doc_id": 0, "bleu": 3.0}]}
    with pytest.raises(EngineError, match="'odd' has none of acc_norm, acc"):
        run_tasks(LOADED, ["odd"])


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'alignloop\[suites\]'"):
        run_tasks(LOADED, ["arc_easy"])
