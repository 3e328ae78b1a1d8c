"""The benchmarks' own arithmetic and AlignLoop's side of them; TRL is not needed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from alignloop.data.packing import collate
from alignloop.model.tiny import tiny_model
from bench import active_selection, gpu, linears, memory_head, scaling, vs_trl
from bench.our_side import architecture, build, prepared, run, shape_of
from bench.workload import (
    METHODS,
    PACKED_LENGTH,
    SHAPES,
    Architecture,
    make_steps,
    packed_rows,
    useful_flops,
    useful_tokens,
)

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, tokenizer = tiny_model()
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_workloads_have_their_shape_and_are_reproducible(method: str) -> None:
    steps, again = make_steps(method, 40, seed=1), make_steps(method, 40, seed=1)
    groups, repeated = ([g for step in made for g in step] for made in (steps, again))
    shape = SHAPES[method]
    assert [g.index for g in groups] == list(range(len(groups))) or method == "sft-packed"
    assert all(len(g.completions) == shape.completions for g in groups)
    assert all(np.array_equal(a.prompt_ids, b.prompt_ids) for a, b in zip(groups, repeated, strict=True))
    assert collate(steps[0]).num_tokens == useful_tokens(steps[0])
    if method != "sft-packed":
        assert all(len(step) == shape.groups for step in steps)
        assert np.mean([len(g.prompt_ids) for g in groups]) == pytest.approx(shape.prompt, rel=0.15)
        lengths = [len(g.completions[0].ids) for g in groups]
        assert np.mean(lengths) == pytest.approx(shape.completion, rel=0.15)


def test_packed_rows_are_full() -> None:
    (groups,) = make_steps("sft-packed", 1)
    rows = packed_rows(groups)
    assert [sum(g.num_tokens for g in row) for row in rows] == [PACKED_LENGTH] * 4
    assert sum(len(row) for row in rows) == len(groups)


def test_kto_pairs_every_prompt_with_the_completion_of_the_row_before() -> None:
    (groups,) = make_steps("kto", 1)
    assert np.array_equal(groups[3].completions[1].ids, groups[2].completions[0].ids)
    assert np.array_equal(groups[0].completions[1].ids, groups[-1].completions[0].ids)
    extras = collate(groups).extras
    assert extras["mismatched"].tolist() == [False, True] * 8
    assert extras["desirable"].tolist() == [True, True, False, False] * 4


def test_flops_by_hand() -> None:
    """10 layer weights, vocabulary 5, hidden size 2, 3 layers of width 4; prompts p, completions a and b.

    A forward pass: 2·10·(p + a + b) for the layers, 2·5·2·(a + b) for the head, and 4·3·4 for each
    visible pair: p(p+1)/2 + a·p + a(a+1)/2 + the same for b.
    """
    model = Architecture(10, 5, 2, 3, 4)
    (groups,) = make_steps("dpo", 1)
    expected = 0.0
    for g in groups:
        p, a, b = len(g.prompt_ids), *(len(c.ids) for c in g.completions)
        pairs = p * (p + 1) / 2 + a * p + a * (a + 1) / 2 + b * p + b * (b + 1) / 2
        expected += 20 * (p + a + b) + 20 * (a + b) + 48 * pairs
    assert useful_flops("dpo-precomputed", groups, model) == pytest.approx(3 * expected)
    assert useful_flops("dpo", groups, model) == pytest.approx(4 * expected)


def test_architecture_leaves_out_embedding_and_head() -> None:
    model, _ = tiny_model()
    sizes = architecture(model)
    # 2 layers: q and o 64², k and v 64·32, three 64·192 in the MLP, two norms; one norm at the end
    assert sizes.layer_parameters == 2 * (2 * 64**2 + 2 * 64 * 32 + 3 * 64 * 192 + 2 * 64) + 64
    assert (sizes.hidden_size, sizes.num_layers, sizes.attention_width) == (64, 2, 64)


@pytest.mark.parametrize("method", METHODS)
def test_our_side_runs_every_method(method: str, tiny_folder: Path) -> None:
    result = run(method, model_name=str(tiny_folder), num_steps=2, scale=0.1)
    assert len(result["losses"]) == len(result["step_s"]) == len(result["useful_flops"]) == 2
    again = [0, 0]
    if method.startswith("kto"):  # the pass for z runs the prompts, too
        steps = make_steps(method, 2, scale=0.1)
        again = [sum(len(g.prompt_ids) for g in groups) for groups in steps]
    expected = [tokens + more for tokens, more in zip(result["useful_tokens"], again, strict=True)]
    assert result["computed_tokens"] == expected  # no padding, and else no prompt twice
    assert np.isfinite(result["losses"]).all()
    first = {"dpo": np.log(2), "kto": 0.5, "ipo": 25.0, "grpo": 0.0}.get(method.split("-")[0])
    if first is not None:  # policy = reference
        assert result["losses"][0] == pytest.approx(first, abs=1e-5)


def test_micro_batches_give_the_loss_of_one(tiny_folder: Path) -> None:
    """ORPO's NLL over the step's tokens does not depend on how the step is cut."""
    losses = [
        run("orpo", model_name=str(tiny_folder), num_steps=2, scale=0.2, token_budget=budget)["losses"]
        for budget in (10_000, 64)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_cached_reference_is_that_of_the_start(tiny_folder: Path) -> None:
    trainer, sizes = build("dpo-precomputed", str(tiny_folder), 4096, 1)
    (groups,) = make_steps("dpo-precomputed", 1, scale=0.1, vocab_size=sizes.vocab_size)
    ready = prepared("dpo-precomputed", trainer, groups)
    logprobs = trainer.model(collate(ready)).logprobs.detach()
    assert np.allclose(collate(ready).extras["reference_logprobs"], logprobs, atol=1e-5)


def test_summary_compares_round_by_round() -> None:
    ours = {
        "step_s": [9.0, 1.0, 2.0, 3.0],
        "step_cpu_s": [9.0, 2.0, 4.0, 6.0],
        "peak_memory_gb": 1.0,
        "losses": [0.5, 0.4, 0.3, 0.2],
        "useful_tokens": [1, 100, 100, 100],
        "useful_flops": [1.0, 3.0, 3.0, 3.0],
        "computed_tokens": [9, 100, 100, 100],
        "matmul_flops_per_s": 3.0,
        "mkl_flops_per_s": 1.5,
        "matmul_flops_per_cpu_s": 1.5,
    }
    trl = ours | {"step_s": [9.0, 8.0, 8.0, 8.0], "step_cpu_s": [9.0, 12.0, 12.0, 12.0]}
    trl |= {"computed_tokens": [9, 400, 400, 400], "peak_memory_gb": 4.0, "losses": [0.5, 0.4, 0.3, 0.2005]}
    result = vs_trl.summary("dpo", [ours], [trl])
    assert result["speedup"] == 24 / 6
    assert result["speedup_cpu"] == 36 / 12
    assert result["memory_ratio"] == 0.25
    assert result["flop_share"] == 9 / 6 / 3
    assert result["flop_share_of_mkl"] == 9 / 6 / 1.5
    assert result["alignloop"]["step_s"] == 2.0
    assert result["alignloop"]["tokens_per_s"] == 50
    assert result["flop_share"] == pytest.approx(9 / 6 / 3)
    assert result["flop_share_cpu"] == pytest.approx(9 / 12 / 1.5)
    assert result["losses_agree"]
    assert (result["alignloop"]["padding_share"], result["trl"]["padding_share"]) == (0.0, 0.75)
    assert "| dpo | 8.00 | 2.00 | 4.00× | 3.00× | ≥ 4.0× | 4.00 | 1.00 | 0.25× |" in vs_trl.table([result])
    assert not vs_trl.summary("dpo", [ours], [trl | {"losses": [0.5, 0.4, 0.3, 0.21]}])["losses_agree"]


def test_results_of_other_methods_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    vs_trl.keep(file, {"cpu": "a"}, [{"method": "dpo", "speedup": 1.0}, {"method": "kto", "speedup": 2.0}])
    rows = vs_trl.keep(file, {"cpu": "b"}, [{"method": "dpo", "speedup": 3.0}])
    assert [(r["method"], r["speedup"], r["machine"]["cpu"]) for r in rows] == [
        ("dpo", 3.0, "b"),
        ("kto", 2.0, "a"),
    ]
    assert json.loads(file.read_text(encoding="utf-8"))["results"] == rows


def test_both_libraries_multiply() -> None:
    assert all(rate > 0 for rate in linears.rates(4, 16, 8, layers=2, repeats=1).values())


def test_memory_head_forms_agree() -> None:
    losses = [memory_head.run(form, 64, 1024, 16)["loss"] for form in memory_head.FORMS]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_scaling_points_and_pictures(tmp_path: Path) -> None:
    point = {"groups": 1, "prompt": 4, "completions": 2, "completion": 6, "vocabulary": 64}
    assert scaling.axis("tokens", point) == 16
    assert scaling.axis("prompt share", point) == 0.25
    measured = scaling.run(point, padded=True, steps=1)
    assert measured["cpu_s"] > 0
    rows = [{"x": x, "cpu_s": x / 2, "wall_s": x, "memory_gb": x**0.5} for x in (2.0, 8.0)]
    assert scaling.slope(rows, "cpu_s") == pytest.approx(1.0)
    assert scaling.slope(rows, "memory_gb") == pytest.approx(0.5)
    scaling.write({"machine": {}, "sweeps": {"prompt share": {"packed": rows, "padded": rows}}}, tmp_path)
    scaling.write({"machine": {"cpu": "x"}, "sweeps": {"tokens": {"packed": rows}}}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "scaling-prompt-share-cpu.svg",
        "scaling-prompt-share-memory.svg",
        "scaling-tokens-cpu.svg",
        "scaling-tokens-memory.svg",
        "scaling.json",
        "scaling.md",
    ]
    assert "<svg" in (tmp_path / "scaling-prompt-share-cpu.svg").read_text(encoding="utf-8")
    page = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert "| 8 | padded | 4.000 | 8.000 | 2.828 |" in page
    assert "Slope of packed rows: CPU time 1.00, memory 0.50" in page


def test_memory_head_page(tmp_path: Path) -> None:
    form = {"memory_gb": 0.5, "without_gradient_gb": 0.4, "wall_s": 1.0, "cpu_s": 2.0, "loss": 3.0}
    point = {"tokens": 64, "slices": form, "full": form | {"memory_gb": 5.0}}
    memory_head.write([point], {"cpu": "x"}, tmp_path)
    page = (tmp_path / "memory_head.md").read_text(encoding="utf-8")
    assert "| 64 | full | 5.000 | 0.400 | 1.00 | 2.00 | 3.000000 |" in page
    assert "full logits take 10.0 times the memory" in page
    assert (tmp_path / "memory_head.svg").exists()


def test_a_side_gets_one_step_more_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(model="m", steps=2, seed=0, threads=1, scale=1.0, token_budget=4096)
    monkeypatch.setattr(vs_trl, "child", lambda module, arguments, *, threads: [module, *arguments])
    assert vs_trl.side("our", "dpo", options)[:6] == ["bench.our_side", "dpo", "--model", "m", "--steps", "3"]


def test_gpu_page_says_what_was_not_measured() -> None:
    shown = gpu.page([], {})
    assert shown.count("not measured") == 6 * 10
    side = {"step_s": 0.5, "tokens_per_s": 9000.0, "peak_memory_gb": 20.0, "padding_share": 0.0}
    result = {"model": "0.5B", "method": "dpo", "alignloop": side, "trl": side | {"step_s": 1.0}}
    result |= {"flop_share": 0.5, "speedup": 2.0, "memory_ratio": 1.0, "largest_loss_difference": 0.001}
    row = "| 0.5B | dpo | 9000 | 0.50 | 1.000 | 0.500 | 2.00× | 20.0 | 20.0 | 1.00× | 0.0% | 1.0e-03 |"
    assert row in gpu.table([result])


def test_gpu_models_are_shaped_like_qwen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters outside the embedding are Qwen2.5 0.5B's 357 898 112 and 1.5B's 1 310 340 608."""
    for size, expected in (("0.5B", 357_898_112), ("1.5B", 1_310_340_608)):
        c = gpu.MODELS[size]
        h, inner = c["hidden_size"], c["intermediate_size"]
        kv = 2 * h // c["num_attention_heads"]
        layer = (h * h + h) + 2 * (h * kv + kv) + h * h + 3 * h * inner + 2 * h
        assert c["num_hidden_layers"] * layer + h == expected
    monkeypatch.setitem(gpu.MODELS, "0.5B", {**SMALL})
    gpu.make_model("0.5B", tmp_path, vocab_size=512)
    shape = shape_of("3,2,12,6")
    result = run("dpo", model_name=str(tmp_path), num_steps=1, shape=shape, token_budget=64)
    assert result["losses"][0] == pytest.approx(np.log(2), abs=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("method", gpu.SHAPES)
def test_our_side_on_a_gpu(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.MODELS, "0.5B", {**SMALL, "hidden_size": 128})
    gpu.make_model("0.5B", tmp_path, vocab_size=512)
    found = {
        d: run(method, model_name=str(tmp_path), num_steps=2, scale=0.3, device=d) for d in ("cpu", "cuda")
    }
    assert found["cuda"]["losses"] == pytest.approx(found["cpu"]["losses"], abs=0.02)
    assert found["cuda"]["peak_memory_gb"] > 0


def test_labels_needed_are_interpolated_and_active_selection_saves_some() -> None:
    counts = np.array([10.0, 20.0, 30.0])
    assert active_selection.labels_needed(counts, np.array([0.5, 0.7, 0.9]), 0.6) == pytest.approx(15)
    assert active_selection.labels_needed(counts, np.array([0.5, 0.7, 0.9]), 0.95) == float("inf")
    options = active_selection.options_of(["--seeds", "4", "--prompts", "1500", "--batches", "16"])
    found = active_selection.measure(options)
    assert found["random"][0] == found["active"][0]  # the first batch is random for both
    assert 0.1 < found["share_of_labels"] < 0.9
