"""Which turns of a conversation SFT moves, seen in the model it leaves."""

import json

import numpy as np
import pytest
import torch

from alignloop import api
from alignloop.config import SFTConfig
from alignloop.config.resolve import resolve
from alignloop.model.load import load_model

QUESTION = [{"role": "user", "content": "Name a colour."}]
FIRST, SECOND = "green green green", "plum plum plum"
AGAIN = {"role": "user", "content": "And a fruit?"}


def say(text, **more):
    return {"role": "assistant", "content": text, **more}


def conversation(**more):
    return [*QUESTION, say(FIRST, **more), AGAIN, say(SECOND)]


def logprob(model, messages):
    """log-prob of the last message's text in the model's own plain forward pass, in nats."""
    tokenizer = model.tokenizer
    text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    answer = tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
    with torch.no_grad():
        logits = model.model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(float(logits[place, token]) for place, token in zip(places, answer, strict=True))


def gains(tmp_path, name, row, **keys):
    """How much SFT on one row raises the log-prob of its first and of its last answer."""
    file = tmp_path / f"{name}.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    shared = {"model_name_or_path": "tiny", "learning_rate": 1e-3, "max_steps": 8, "num_threads": 1}
    run = api.run(SFTConfig(dataset=str(file), output_dir=str(tmp_path / name), **shared, **keys))
    before, after = load_model("tiny"), load_model(run.path)
    rows = conversation()
    moved = [logprob(after, part) - logprob(before, part) for part in (rows[:2], rows)]
    return np.asarray(moved), json.loads((run.path / "run.json").read_text(encoding="utf-8"))


def test_a_middle_turn_moves_with_all_and_not_with_last_or_weight_0(tmp_path):
    everything, made = gains(tmp_path, "all", {"messages": conversation()})
    last, _ = gains(tmp_path, "last", {"messages": conversation()}, train_on="last")
    excepted, _ = gains(tmp_path, "weight", {"messages": conversation(weight=0)})
    assert (everything > 3).all()
    # The last answer is another text, so that learning it alone does not help the first one.
    assert last[0] < 1
    assert last[1] > 5
    assert excepted == pytest.approx(last)
    data = made["results"]["data"]
    assert data["turns"] == 2
    assert data["prompt_tokens"] > 0


def test_what_a_tool_says_is_not_learned(tmp_path):
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function.name }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (tmp_path / "tools.jinja").write_text(template, encoding="utf-8")
    call = say("", tool_calls=[{"name": "look", "arguments": {}}])
    row = {"messages": [*QUESTION, call, {"role": "tool", "content": FIRST}, say(SECOND)]}
    keys = {"chat_template": str(tmp_path / "tools.jinja")}
    _, made = gains(tmp_path, "tools", row, **keys)
    tokenizer = load_model("tiny").tokenizer
    counted = [tokenizer.encode(text, add_special_tokens=False) for text in ("look", SECOND)]
    assert made["results"]["data"]["completion_tokens"] == sum(map(len, counted)) + 2  # two ends of turn
    assert made["results"]["data"]["turns"] == 2


def test_mask_history_of_other_tools_is_train_on_last():
    keys = {"dataset": "x.jsonl", "output_dir": "out", "mask_history": True}
    config, _ = resolve("sft", keys)
    assert config.train_on == "last"  # pyright: ignore
