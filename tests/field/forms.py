"""Rows in published forms, with invented content, and what each of them means."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

ASK, GOOD, BAD = "Why rain?", "Of clouds.", "No idea."
물음, 좋음, 나쁨 = "비는 왜 오나요?", "구름 때문입니다.", "잘 모르겠습니다."
USER, YES, NO = (
    {"role": r, "content": c} for r, c in (("user", ASK), ("assistant", GOOD), ("assistant", BAD))
)
HUMAN, GPT, GPT_BAD = ({"from": r, "value": c} for r, c in (("human", 물음), ("gpt", 좋음), ("gpt", 나쁨)))
HELP = dict(
    zip(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), (4, 3, 2, 1, 0), strict=True)
)
MORE = [USER, {"role": "assistant", "content": "First."}, {"role": "user", "content": "And?"}]


@dataclass(frozen=True)
class Case:
    """Rows of one form.

    Attributes:
        rows: of the file, or its text.
        means: what its records say, see `said` in test_forms.
        kind: that the stage asks for, None for what the rows say themselves.
        suffix: of the file's name.
        unread: columns and keys that are named as not read.
        options: of the command line.
    """

    rows: list[dict] | str
    means: list[tuple]
    kind: str | None = None
    suffix: str = ".jsonl"
    unread: tuple[str, ...] = ()
    options: tuple[str, ...] = field(default=())


def node(
    name: str, parent: str | None, text: str, role: str, rank: int | None = None, **more: object
) -> dict:
    own = {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank, "lang": "ko"}
    return {**own, "deleted": False, "message_tree_id": "t", **more}


TREE = [
    node("t", None, 물음, "prompter"),
    node("b", "t", 나쁨, "assistant", 1),
    node("a", "t", 좋음, "assistant", 0),
    node("c", "a", "또?", "prompter"),
    node("d", "c", "그래요.", "assistant", 0),
    node("x", "t", "spam", "assistant", 2, deleted=True),
    node("y", "x", "more", "prompter"),
]
NESTED = {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": {
    "message_id": "t", "text": ASK, "role": "prompter", "lang": "en", "replies": [
        {"text": BAD, "role": "assistant", "rank": 1, "replies": []},
        {"text": GOOD, "role": "assistant", "rank": 0, "replies": []}]}}  # fmt: skip
PAIR = (ASK, GOOD, BAD, 1.0, 0.0)
한쌍 = (물음, 좋음, 나쁨, 1.0, 0.0)
SHOWN = (ASK, GOOD)

PAIRS = {
    "HH-RLHF": Case([{"chosen": f"\n\nHuman: {ASK}\n\nAssistant: {GOOD}",
                      "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {BAD}"}], [PAIR]),
    "HH-RLHF, CRLF": Case([{"chosen": f"\r\n\r\nHuman: {ASK}\r\n\r\nAssistant: {GOOD}",
                            "rejected": f"\r\n\r\nHuman: {ASK}\r\n\r\nAssistant: {BAD}"}], [PAIR]),
    "HH-RLHF, white space before it": Case(
        [{"chosen": f" \n\nHuman: {물음}\n\nAssistant: {좋음} ",
          "rejected": f" \n\nHuman: {물음}\n\nAssistant: {나쁨} "}], [한쌍]),
    "HH-RLHF, a mark within the answer": Case(
        [{"chosen": f"\n\nHuman: {ASK}\n\nAssistant: A mark:\n\nHuman: is one.",
          "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {BAD}"}],
        [(ASK, "A mark:\n\nHuman: is one.", BAD, 1.0, 0.0)]),
    "Alpaca texts": Case([{"chosen": f"### Instruction:\n{ASK}\n\n### Response:\n{GOOD}",
                           "rejected": f"### Instruction:\n{ASK}\n\n### Response:\n{BAD}"}], [PAIR]),
    "UltraFeedback, binarized": Case(
        [{"prompt": ASK, "prompt_id": "x", "chosen": [USER, YES], "rejected": [USER, NO],
          "messages": [USER, YES], "score_chosen": 8.5, "score_rejected": 3.0}], [PAIR],
        unread=("score_chosen", "score_rejected")),
    "scores as a margin": Case(
        [{"prompt": ASK, "chosen": GOOD, "rejected": BAD, "chosen_score": 9.0, "rejected_score": 2.0}],
        [(ASK, GOOD, BAD, 1.0, 7.0)], options=("--column", "margin=chosen_score - rejected_score")),
    "HelpSteer 2, preferences": Case(
        [{"split": "train", "prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": -2,
          "preference_statement": "s", "preference_elaboration": "e"},
         {"split": "train", "prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": 3},
         {"split": "train", "prompt": ASK, "response_1": GOOD, "response_2": BAD, "preference_strength": 0}],
        [(ASK, GOOD, BAD, 1.0, 2.0), (ASK, BAD, GOOD, 1.0, 3.0), (ASK, GOOD, BAD, 0.5, 0.0)]),
    "HelpSteer 3": Case(
        [{"domain": "general", "language": "ko", "context": [{"role": "user", "content": 물음}],
          "response1": 나쁨, "response2": 좋음, "overall_preference": 3,
          "individual_preference": [{"score": 3, "reasoning": "r"}]}], [(물음, 좋음, 나쁨, 1.0, 3.0)],
        unread=("domain", "individual_preference", "language")),
    "PKU-SafeRLHF": Case(
        [{"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1,
          "safer_response_id": 0, "is_response_0_safe": True}], [PAIR],
        unread=("is_response_0_safe", "safer_response_id")),
    "PKU-SafeRLHF, the safer one": Case(
        [{"prompt": ASK, "response_0": GOOD, "response_1": BAD, "better_response_id": 1,
          "safer_response_id": 0}], [PAIR], options=("--column", "preference=safer_response_id")),
    "SHP": Case([{"history": ASK, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1, "score_ratio": 9.0},
                 {"history": ASK, "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0, "score_ratio": 9.0}],
                [PAIR, PAIR], unread=("score_ratio",)),
    "Arena, conversations": Case(
        [{"question_id": "q", "model_a": "m", "model_b": "n", "winner": w, "conversation_a": [USER, YES],
          "conversation_b": [USER, NO], "turn": 1} for w in ("model_a", "model_b", "tie (bothbad)")],
        [PAIR, (ASK, BAD, GOOD, 1.0, 0.0), (ASK, GOOD, BAD, 0.5, 0.0)]),
    "Arena, 140k": Case(
        [{"model_a": "m", "model_b": "n", "winner": "both_bad", "language": "ko",
          "conversation_a": [{"role": "user", "content": [{"type": "text", "text": 물음}]},
                             {"role": "assistant", "content": [{"type": "text", "text": 좋음}]}],
          "conversation_b": [{"role": "user", "content": [{"type": "text", "text": 물음}]},
                             {"role": "assistant", "content": [{"type": "text", "text": 나쁨}]}]}],
        [(물음, 좋음, 나쁨, 0.5, 0.0)]),
    "Arena, 55k": Case(
        [{"id": 1, "model_a": "m", "model_b": "n", "prompt": json.dumps([ASK]),
          "response_a": json.dumps([BAD]), "response_b": json.dumps([GOOD]), "winner_model_a": 0,
          "winner_model_b": 1, "winner_tie": 0}], [PAIR]),
    "Arena, 55k in CSV": Case(
        "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        f'1,"[""{물음}""]","[""{좋음}""]","[""{나쁨}""]",0,0,1\n', [(물음, 좋음, 나쁨, 0.5, 0.0)],
        suffix=".csv"),
    "Argilla, flattened": Case(
        [{"id": "r", "status": "completed", "instruction": ASK, "response1": BAD, "response2": GOOD,
          "preference.responses": ["response1", "response2", "response2"],
          "preference.responses.users": ["u", "v", "w"],
          "preference.responses.status": ["submitted", "submitted", "submitted"]}], [PAIR],
        unread=("preference.responses.users", "status")),
    "Argilla, a discarded answer": Case(
        [{"instruction": ASK, "response1": GOOD, "response2": BAD,
          "preference.responses": ["response2", "response1"],
          "preference.responses.status": ["discarded", "submitted"]}], [PAIR]),
    "Argilla, records": Case(
        [{"id": "r", "fields": {"instruction": 물음, "response1": 좋음, "response2": 나쁨}, "metadata": {},
          "responses": {"preference": [{"value": "response1", "user_id": "u", "status": "submitted"}]}}],
        [한쌍], unread=("responses.preference[].user_id",)),
    "Label Studio": Case(
        [{"id": 1, "data": {"prompt": ASK, "answer1": GOOD, "answer2": BAD}, "annotations": [
            {"was_cancelled": True, "result": [{"value": {"selected": "right"}}]},
            {"was_cancelled": False, "result": [{"value": {"selected": "left"}}]}]}], [PAIR],
        suffix=".json"),
    "OpenAI": Case(
        [{"input": {"messages": [USER], "tools": [], "parallel_tool_calls": True}, "preferred_output": [YES],
          "non_preferred_output": [NO]}], [PAIR], unread=("input.parallel_tool_calls",)),
    "ms-swift": Case([{"messages": [USER, YES], "rejected_response": BAD}], [PAIR]),
    "ms-swift, system": Case(
        [{"messages": [{"role": "system", "content": "s"}, USER, YES], "rejected_response": BAD}],
        [("s|" + ASK, GOOD, BAD, 1.0, 0.0)]),
    "LLaMA-Factory, sharegpt": Case(
        [{"conversations": [HUMAN], "chosen": GPT, "rejected": GPT_BAD}], [한쌍]),
    "LLaMA-Factory, alpaca": Case(
        [{"instruction": ASK, "input": "", "chosen": GOOD, "rejected": BAD}], [PAIR], suffix=".json"),
    "summarize_from_feedback": Case(
        [{"info": {"id": "i", "post": ASK, "title": "t"}, "choice": 1, "worker": "w",
          "summaries": [{"text": BAD, "policy": "p"}, {"text": GOOD, "policy": "p"}]}], [PAIR],
        unread=("info.id", "info.title", "summaries[].policy", "worker")),
    "webgpt": Case(
        [{"question": {"full_text": ASK, "id": "q"}, "answer_0": GOOD, "answer_1": BAD, "score_0": 0.5,
          "score_1": -0.5}], [PAIR], unread=("question.id",)),
    "stack-exchange, paired": Case(
        [{"qid": 1, "question": ASK, "date": "d", "response_j": GOOD, "response_k": BAD}], [PAIR]),
    "RewardBench": Case(
        [{"prompt": ASK, "chosen": GOOD, "rejected": BAD, "chosen_model": "m", "subset": "s", "id": 1}],
        [PAIR], unread=("chosen_model",)),
    "RewardBench 2": Case(
        [{"id": "1", "prompt": ASK, "chosen": [GOOD], "rejected": [BAD, "Eh.", "Hm."], "num_correct": 1,
          "num_incorrect": 3, "total_completions": 4, "subset": "Ties"}],
        [PAIR, (ASK, GOOD, "Eh.", 1.0, 0.0), (ASK, GOOD, "Hm.", 1.0, 0.0)]),
    "AlpacaEval, annotations": Case(
        [{"instruction": ASK, "output_1": GOOD, "output_2": BAD, "preference": 1.0},
         {"instruction": ASK, "output_1": BAD, "output_2": GOOD, "preference": 2.0},
         {"instruction": ASK, "output_1": GOOD, "output_2": BAD, "preference": 1.5}],
        [PAIR, PAIR, (ASK, GOOD, BAD, 0.5, 0.0)]),
    "votes 0 and 1": Case(
        [{"prompt": ASK, "response_a": GOOD, "response_b": BAD, "preference": 0},
         {"prompt": ASK, "response_a": BAD, "response_b": GOOD, "preference": 1}], [PAIR, PAIR]),
    "votes 1 and 2": Case(
        [{"prompt": ASK, "response_a": GOOD, "response_b": BAD, "preference": 1},
         {"prompt": ASK, "response_a": BAD, "response_b": GOOD, "preference": 2},
         {"prompt": ASK, "response_a": GOOD, "response_b": BAD, "preference": 1.5}],
        [PAIR, PAIR, (ASK, GOOD, BAD, 0.5, 0.0)]),
    "OpenAssistant, flat": Case(TREE, [한쌍], kind="preference", unread=("lang",)),
    "OpenAssistant, trees": Case([NESTED], [PAIR], kind="preference",
                                 unread=("prompt.lang", "prompt.message_id")),
    "Korean columns": Case([{"질문": 물음, "선택": 좋음, "거절": 나쁨}], [한쌍]),
    "columns in objects": Case(
        [{"q": {"text": [ASK]}, "out": {"best": GOOD, "worst": BAD}}], [PAIR],
        options=("--column", "prompt=q.text[0]", "--column", "chosen=out.best", "--column",
                 "rejected=out.worst")),
}  # fmt: skip

SCORED = {
    "UltraFeedback": Case(
        [{"source": "evol", "instruction": ASK, "models": ["m", "n"], "completions": [
            {"response": GOOD, "overall_score": 10.0, "model": "m", "custom_system_prompt": "Be good."},
            {"response": BAD, "overall_score": 1.0, "model": "n", "critique": "c"}]}],
        [(ASK, GOOD, {"overall": 5.0}), (ASK, BAD, {"overall": 0.0})],
        unread=("completions[].critique", "completions[].custom_system_prompt")),
    "UltraFeedback, ranked": Case(
        [{"instruction": ASK, "models": ["m", "n"], "completions": [
            {"response": BAD, "overall_score": 2.0}, {"response": GOOD, "overall_score": 8.0}]}],
        [(ASK, (BAD, GOOD), (2, 1))], kind="ranking"),
    "HelpSteer": Case([{"prompt": ASK, "response": GOOD, **HELP}], [(ASK, GOOD, HELP)]),
    "Nectar": Case(
        [{"prompt": f"\n\nHuman: {ASK}\n\nAssistant: ", "num_responses": 2, "turns": 1, "good_natured": True,
          "answers": [{"answer": BAD, "rank": 2.0, "model": "m"}, {"answer": GOOD, "rank": 1.0}]}],
        [(ASK, (BAD, GOOD), (2, 1))], unread=("answers[].model", "good_natured", "turns")),
    "Nectar, several turns": Case(
        [{"prompt": f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {ASK}\n\nAssistant: ", "num_responses": 2,
          "answers": [{"answer": BAD, "rank": 2.0}, {"answer": GOOD, "rank": 1.0}]}],
        [("Hi|Hello|" + ASK, (BAD, GOOD), (2, 1))]),
    "stack-exchange": Case(
        [{"qid": 5, "question": ASK, "date": "d", "answers": [
            {"answer_id": 1, "pm_score": 1, "selected": False, "text": BAD},
            {"answer_id": 2, "pm_score": 7, "selected": True, "text": GOOD}]}],
        [(ASK, (BAD, GOOD), (2, 1))], unread=("answers[].answer_id", "answers[].selected", "date")),
    "summarize_from_feedback, axes": Case(
        [{"info": {"post": ASK}, "summary": {"text": GOOD, "axes": {"overall": 7, "coverage": 1}},
          "worker": "w"}], [(ASK, GOOD, {"overall": 5.0, "coverage": 0.0})]),
    "scored responses": Case(
        [{"prompt": ASK, "responses": [GOOD, BAD, "So."], "scores": [5, 1, 5]}],
        [(ASK, GOOD, {"score": 5}), (ASK, BAD, {"score": 1}), (ASK, "So.", {"score": 5})]),
    "scored responses, ranked": Case(
        [{"prompt": ASK, "responses": [GOOD, BAD, "So."], "scores": [9, 1, 9]}],
        [(ASK, (GOOD, BAD, "So."), (1, 3, 1))], kind="ranking"),
    "RewardBench 2, ranked": Case(
        [{"prompt": ASK, "chosen": [GOOD], "rejected": [BAD, "Eh."]}],
        [(ASK, (GOOD, BAD, "Eh."), (1, 2, 2))], kind="ranking"),
    "OpenAssistant, ranked": Case(TREE, [(물음, (나쁨, 좋음), (2, 1))], kind="ranking"),
    "scores from 1 to 10": Case(
        [{"prompt": ASK, "response": GOOD, "score": 10}, {"prompt": ASK, "response": BAD, "score": 1}],
        [(ASK, GOOD, {"score": 5.0}), (ASK, BAD, {"score": 0.0})], options=("--score-range", "1:10")),
    "scores to 100": Case(
        f"prompt,response,score\n{물음},{좋음},80\n{물음},{나쁨},5\n",
        [(물음, 좋음, {"score": 4.0}), (물음, 나쁨, {"score": 0.25})], suffix=".csv",
        options=("--score-range", "0:100")),
    "BeaverTails": Case(
        [{"prompt": ASK, "response": GOOD, "category": {"privacy": False}, "is_safe": True},
         {"prompt": ASK, "response": BAD, "category": {"privacy": True}, "is_safe": False}],
        [(ASK, GOOD, True), (ASK, BAD, False)], unread=("category",)),
    "KTO tags": Case([{"instruction": ASK, "input": "", "output": GOOD, "kto_tag": True},
                      {"instruction": ASK, "input": "", "output": BAD, "kto_tag": False}],
                     [(ASK, GOOD, True), (ASK, BAD, False)], suffix=".json"),
    "KTO tags, sharegpt": Case([{"conversations": [HUMAN, GPT], "kto_tag": True},
                                {"conversations": [HUMAN, GPT_BAD], "kto_tag": False}],
                               [(물음, 좋음, True), (물음, 나쁨, False)]),
    "TRL, unpaired": Case(
        [{"prompt": [USER], "completion": [YES], "label": True},
         {"prompt": [USER], "completion": [NO], "label": False}], [(ASK, GOOD, True), (ASK, BAD, False)]),
}  # fmt: skip

SHOWING = {
    "UltraChat": Case([{"id": "0", "data": [ASK, "First.", "And?", GOOD]}], [(f"{ASK}|First.|And?", GOOD)]),
    "UltraChat 200k": Case([{"prompt": ASK, "prompt_id": "x", "messages": [*MORE, YES]}],
                           [(f"{ASK}|First.|And?", GOOD)]),
    "LMSYS": Case([{"conversation_id": "c", "model": "m", "conversation": [USER, YES], "turn": 1,
                    "redacted": False}], [SHOWN]),
    "chat": Case([{"chat": [USER, YES]}], [SHOWN]),
    "messages under data": Case([{"data": [USER, YES]}], [SHOWN]),
    "ShareGPT": Case([{"id": "0", "conversations": [HUMAN, GPT]}], [(물음, 좋음)], suffix=".json"),
    "LIMA": Case([{"conversations": [ASK, GOOD], "source": "wikihow"}], [SHOWN]),
    "guanaco": Case([{"text": f"### Human: {물음}### Assistant: {좋음}"}], [(물음, 좋음)]),
    "guanaco, several turns": Case(
        [{"text": f"### Human: {ASK}### Assistant: First.### Human: And?### Assistant: {GOOD}"}],
        [(f"{ASK}|First.|And?", GOOD)]),
    "Alpaca text": Case(
        [{"text": "Below is an instruction that describes a task.\n\n### Instruction:\nAdd.\n\n### Input:\n"
                  f"1 2\n\n### Response:\n{GOOD}"}], [("Add.\n\nInput:\n1 2", GOOD)]),
    "Korean Alpaca text": Case([{"text": f"### 질문: {물음}\n\n### 답변: {좋음}"}], [(물음, 좋음)]),
    "ChatML": Case([{"text": f"<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n{ASK}<|im_end|>\n"
                             f"<|im_start|>assistant\n{GOOD}<|im_end|>\n"}], [("s|" + ASK, GOOD)]),
    "Llama 2": Case([{"text": f"<s>[INST] <<SYS>>\ns\n<</SYS>>\n\n{ASK} [/INST] {GOOD} </s>"}],
                    [("s|" + ASK, GOOD)]),
    "Llama 3": Case([{"text": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
                              f"{물음}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
                              f"{좋음}<|eot_id|>"}], [(물음, 좋음)]),
    "Zephyr": Case([{"text": f"<|user|>\n{ASK}</s>\n<|assistant|>\n{GOOD}</s>\n"}], [SHOWN]),
    "Vicuna": Case([{"text": f"A chat between a user and an assistant. USER: {ASK} ASSISTANT: {GOOD}</s>"}],
                   [SHOWN]),
    "glaive": Case(
        [{"system": "SYSTEM: You have tools.", "chat": f"USER: {ASK}\n\n\nASSISTANT: {GOOD} <|endoftext|>"}],
        [("You have tools.|" + ASK, GOOD)]),
    "OpenAssistant, flat": Case(TREE, [(f"{물음}|{좋음}|또?", "그래요.")], unread=("lang",)),
    "OpenAssistant, trees": Case([NESTED], [SHOWN]),
    "LLaMA-Factory, history": Case(
        [{"instruction": "And?", "input": "", "output": GOOD, "system": "s", "history": [[ASK, "First."]]}],
        [(f"s|{ASK}|First.|And?", GOOD)], suffix=".json"),
    "OpenAI, weights": Case(
        [{"messages": [*MORE[:1], {"role": "assistant", "content": "First.", "weight": 0}, MORE[2],
                       {**YES, "weight": 1}]}], [(f"{ASK}|First.|And?", GOOD)]),
    "Dolly": Case([{"instruction": ASK, "context": "", "response": GOOD, "category": "open_qa"}], [SHOWN],
                  unread=("category",)),
    "OpenOrca": Case([{"id": "n", "system_prompt": "", "question": ASK, "response": GOOD}], [SHOWN]),
    "GSM8K": Case([{"question": ASK, "answer": "So <<1+1=2>>\n#### 2,000"}],
                  [(ASK, "So <<1+1=2>>\n#### 2,000")], kind="demonstration"),
    "KoAlpaca": Case([{"instruction": 물음, "output": 좋음, "url": "u"}], [(물음, 좋음)],
                     kind="demonstration", unread=("url",)),
    "MATH": Case([{"problem": ASK, "solution": "So \\boxed{2}.", "level": "Level 1", "type": "Algebra"}],
                 [(ASK, "So \\boxed{2}.")], kind="demonstration"),
    "BeaverTails": Case([{"prompt": ASK, "response": GOOD, "is_safe": True},
                         {"prompt": ASK, "response": BAD, "is_safe": False}], [SHOWN], kind="demonstration"),
    "TSV": Case(f"prompt\tresponse\n{물음}\t{좋음}\n", [(물음, 좋음)], suffix=".tsv"),
    "ndjson": Case(json.dumps({"prompt": 물음, "response": 좋음}, ensure_ascii=False), [(물음, 좋음)],
                   suffix=".ndjson"),
    "objects over several lines": Case(
        "\n".join(json.dumps({"prompt": 물음, "response": 좋음}, ensure_ascii=False, indent=2) for _ in "ab"),
        [(물음, 좋음)] * 2),
    "a list in .jsonl": Case(json.dumps([{"prompt": ASK, "response": GOOD}], indent=1), [SHOWN]),
}  # fmt: skip

ASKING = {
    "GSM8K": Case([{"question": ASK, "answer": "So <<1+1=2>>\n#### 2,000"}],
                  [(ASK, "So <<1+1=2>>\n#### 2,000")], kind="prompt"),
    "KoAlpaca": Case([{"instruction": 물음, "output": 좋음, "url": "u"}], [(물음, None)], kind="prompt"),
    "Tulu 3, RLVR": Case([{"messages": [USER], "ground_truth": "2", "dataset": "gsm8k"}], [(ASK, "2")]),
    "verl": Case([{"data_source": "gsm8k", "prompt": [USER], "ability": "math",
                   "reward_model": {"style": "rule", "ground_truth": "72"}, "extra_info": {"index": 0}}],
                 [(ASK, "72")], kind="prompt", unread=("reward_model.style",)),
    "MATH": Case([{"problem": ASK, "solution": "So \\boxed{\\frac{1}{2}}.", "level": "Level 1"}],
                 [(ASK, "So \\boxed{\\frac{1}{2}}.")]),
    "UltraFeedback": Case([{"instruction": ASK, "models": ["m", "n"], "completions": [
        {"response": GOOD, "overall_score": 9.0}, {"response": BAD, "overall_score": 1.0}]}],
        [(ASK, None)], kind="prompt", unread=("response", "scores")),
    "OpenAssistant": Case(TREE, [(물음, None), (f"{물음}|{좋음}|또?", None)], kind="prompt"),
    "an object as the answer, told so": Case(
        [{"prompt": ASK, "ground_truth": '{"N": 3}'}], [(ASK, '{"N": 3}')],
        options=("--column", "answer=ground_truth")),
}  # fmt: skip

QUESTIONS = {
    "MMLU": Case([{"question": ASK, "subject": "law", "choices": ["w", "x", "y", "z"], "answer": 1}],
                 [(ASK, "wxyz", "x")]),
    "MMLU without a header": Case(f"{ASK},w,x,y,z,B\n{ASK},w,x,y,z,D\n",
                                  [(ASK, "wxyz", "x"), (ASK, "wxyz", "z")], suffix=".csv"),
    "MMLU-Pro": Case([{"question": ASK, "options": list("abcdefghij"), "answer": "C", "answer_index": 2}],
                     [(ASK, "abcdefghij", "c")]),
    "KMMLU": Case([{"question": 물음, "answer": k, "A": "가", "B": "나", "C": "다", "D": "라"}
                    for k in (1, 4)],
                  [(물음, "가나다라", "가"), (물음, "가나다라", "라")]),
    "KMMLU in CSV, numbers as choices": Case(f"question,answer,A,B,C,D\n{물음},2,4,3,2,1\n",
                                             [(물음, "4321", "3")], suffix=".csv"),
    "CMMLU": Case([{"Question": ASK, "A": "w", "B": "x", "C": "y", "D": "z", "Answer": "D"}],
                  [(ASK, "wxyz", "z")]),
    "ARC": Case([{"id": "1", "question": ASK, "choices": {"text": ["w", "x", "y"], "label": ["1", "2", "3"]},
                  "answerKey": "2"}], [(ASK, "wxy", "x")]),
    "OpenBookQA": Case([{"question_stem": ASK, "choices": {"text": ["w", "x"], "label": ["A", "B"]},
                         "answerKey": "A"}], [(ASK, "wx", "w")]),
    "HellaSwag": Case([{"activity_label": "Rain", "ctx_a": "It", "ctx_b": "rains", "ctx": "It rains",
                        "endings": ["w", "x", "y", "z"], "label": "3"}], [("Rain\n\nIt rains", "wxyz", "z")]),
    "BoolQ": Case([{"question": ASK, "passage": "P.", "answer": False}], [("P.\n\n" + ASK, "yesno", "no")]),
    "KoBEST BoolQ": Case([{"paragraph": "글.", "question": 물음, "label": 1}],
                         [("글.\n\n" + 물음, "예아니요", "예")]),
    "KoBEST COPA": Case([{"premise": "비가 왔다.", "question": "원인", "alternative_1": "가",
                          "alternative_2": "나", "label": 1}], [("비가 왔다.\n\n원인", "가나", "나")]),
    "CLIcK": Case([{"id": "1", "paragraph": "", "question": 물음, "choices": ["가", "나"], "answer": "나"}],
                  [(물음, "가나", "나")]),
    "HAE-RAE Bench": Case([{"query": f"{물음}\n(A) 가 (B) 나\n정답:", "answer": "(B)"}],
                          [(f"{물음}\n(A) 가 (B) 나\n정답:", "(A)(B)", "(B)")]),
    "WinoGrande": Case([{"sentence": ASK, "option1": "w", "option2": "x", "answer": "2"}],
                       [(ASK, "wx", "x")]),
    "PIQA": Case([{"goal": ASK, "sol1": "w", "sol2": "x", "label": 0}], [(ASK, "wx", "w")]),
    "RACE": Case([{"article": "P.", "question": ASK, "options": ["w", "x"], "answer": "B"}],
                 [("P.\n\n" + ASK, "wx", "x")]),
}  # fmt: skip
