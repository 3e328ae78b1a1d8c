from __future__ import annotations

import torch

from alignloop.model.generate import generate
from alignloop.model.sampling import SamplingParams
from alignloop.model.tiny import tiny_model
from alignloop.rl.rollout import CompletionEngine, LocalEngine


def test_the_local_engine_samples_from_the_current_weights() -> None:
    model, tokenizer = tiny_model()
    engine: CompletionEngine = LocalEngine(model, tokenizer, token_budget=200)
    prompts = [tokenizer(text).input_ids for text in ("the rain", "비가 오면")]
    params = SamplingParams(max_tokens=12, seed=4)
    done: list[tuple[int, int]] = []
    first = engine.generate(
        prompts, params, n=3, on_done=lambda prompt, index, _: done.append((prompt, index))
    )
    assert first == generate(model, tokenizer, prompts, params, n=3, token_budget=200)
    assert sorted(done) == [(prompt, index) for prompt in range(2) for index in range(3)]
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    second = engine.generate(prompts, params, n=3)
    assert second != first
    assert second == generate(model, tokenizer, prompts, params, n=3, token_budget=200)


def test_the_ratio_to_a_training_forward_pass_is_one() -> None:
    model, tokenizer = tiny_model()
    prompt = tokenizer("how do bees find flowers?").input_ids
    params = SamplingParams(temperature=0.7, max_tokens=40)
    model.train()
    for sampled in LocalEngine(model, tokenizer).generate([prompt], params, n=4)[0]:
        logits = model(torch.tensor([prompt + sampled.ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(sampled.ids)[:, None]).squeeze(1)
        assert logprobs.requires_grad
        assert (logprobs - torch.tensor(sampled.logprobs)).abs().max() < 1e-5
