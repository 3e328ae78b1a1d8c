"""Bad rows, each with the exact message."""

import json

import pytest

from alignloop.data import values as read
from alignloop.data.columns import read_records
from alignloop.errors import DataError

CHATS = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant: Yes, please.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant: No.\n\nNever.",
}
SIDES = "expected A, B or tie (or left/right, model_a/model_b, 0/1 with 0 the first, …)"
BAD = [
    (
        {"prompt": "", "response": "a"},
        "demonstration",
        "field 'prompt': value '': expected text, found none",
        "empty_prompt",
    ),
    (
        {"prompt": "q", "response": " \n"},
        "demonstration",
        "field 'response': value ' \\n': expected text, found none",
        "empty_completion",
    ),
    (
        {"prompt": "q", "response": 5},
        "demonstration",
        "field 'response': value 5: expected text, found a number",
        "wrong_type",
    ),
    (
        {"prompt": 5, "response": "a"},
        "demonstration",
        "field 'prompt': value 5: expected text, found a number",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a\ud800"},
        "demonstration",
        "field 'response': holds half a surrogate pair, which is no character",
        "invalid_unicode",
    ),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]},
        "demonstration",
        "field 'messages': value '': expected text, found none",
        "empty_completion",
    ),
    (
        {"messages": [{"role": "narrator", "content": "q"}]},
        "demonstration",
        "field 'messages[0].role': value 'narrator': expected the role system, user (human), "
        "assistant (gpt), tool (observation) or function_call",
        "unknown_role",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "demonstration",
        "field 'messages[0].content': value {'type': 'image'}: only text parts can be read",
        "not_text",
    ),
    (
        {"messages": []},
        "demonstration",
        "field 'messages': value []: expected at least one message",
        "empty_prompt",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "system", "content": "s"},
                {"role": "assistant", "content": "a"},
            ]
        },
        "demonstration",
        "field 'messages[1]': a system message must come first",
        "bad_messages",
    ),
    (
        {"messages": [{"role": "assistant", "content": "a"}]},
        "demonstration",
        "field 'messages': expected text, found none",
        "empty_prompt",
    ),
    (
        {"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "prompt",
        "field 'prompt': value 'assistant': a prompt must end with a user message or a tool's answer",
        "prompt_not_user",
    ),
    (
        {"prompt": "q", "response": "a", "label": "maybe"},
        "label",
        "field 'label': value 'maybe': expected good/bad, true/false, 1/0 or 좋아요/싫어요",
        "unknown_label",
    ),
    (
        {"prompt": "q", "response": "a", "label": 2},
        "label",
        "field 'label': value 2: expected good/bad, true/false, 1/0 or 좋아요/싫어요",
        "unknown_label",
    ),
    (
        {"prompt": "q", "response_A": "x", "response_B": "y", "preference": "C"},
        "preference",
        f"field 'preference': value 'C': {SIDES}",
        "unknown_label",
    ),
    (
        {"prompt": "q", "response_A": "x", "response_B": "y", "preference": 2},
        "preference",
        f"field 'preference': value 2: {SIDES}",
        "unknown_label",
    ),
    (
        {"prompt": "q", "chosen": "x", "rejected": "y", "probability": 1.5},
        "preference",
        "field 'probability': value 1.5: expected a number from 0 to 1",
        "out_of_range",
    ),
    (
        {"prompt": "q", "chosen": "x"},
        "preference",
        "field 'rejected': is missing beside 'chosen'; the row has prompt, chosen",
        "missing_field",
    ),
    (
        {"prompt": "q", "response_a": "x", "response_b": "y"},
        "preference",
        "field 'preference': is missing beside 'response_a'; the row has prompt, response_a, response_b",
        "missing_field",
    ),
    (
        {"chosen": "x\n1", "rejected": "y\n1"},
        "preference",
        "field 'prompt': no prompt column, and chosen and rejected do not begin with the same lines",
        "missing_field",
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
        "preference",
        "field 'rejected': the two dialogues differ before their last answer, so there is no common prompt",
        "diverging_dialogues",
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        "preference",
        "field 'chosen': value '': expected text, found none",
        "empty_completion",
    ),
    (
        {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"},
        "preference",
        "field 'chosen': expected the assistant last",
        "bad_messages",
    ),
    (
        {
            "prompt": "other",
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "rejected": "b",
        },
        "preference",
        "field 'chosen': does not continue the prompt",
        "prompt_mismatch",
    ),
    (
        {"prompt": "Tea?", "chosen": CHATS["chosen"], "rejected": "\n\nHuman: Tea?\n\nAssistant: No"},
        "preference",
        "field 'rejected': answers another prompt",
        "prompt_mismatch",
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c"], "ranking": [1, 2]},
        "ranking",
        "field 'ranking': value [1, 2]: expected 3 ranks, one for each response in its place, 1 the best, "
        "ties allowed",
        "not_a_ranking",
    ),
    (
        {"prompt": "q", "responses": ["a", "b", "c"], "ranking": [0, 1, 2]},
        "ranking",
        "field 'ranking': value [0, 1, 2]: expected 3 ranks, one for each response in its place, 1 the best, "
        "ties allowed; these are no ranking",
        "not_a_ranking",
    ),
    (
        {"prompt": "q", "responses": ["a", "b"], "ranking": ["a", 1]},
        "ranking",
        "field 'ranking': value ['a', 1]: expected 2 ranks, one for each response in its place, 1 the best, "
        "ties allowed",
        "not_a_ranking",
    ),
    (
        {"prompt": "q", "responses": ["a"], "ranking": [1]},
        "ranking",
        "field 'responses': value ['a']: expected at least two responses",
        "too_few_responses",
    ),
    (
        {"prompt": "q", "responses": ["a", ""], "ranking": [1, 2]},
        "ranking",
        "field 'responses[1]': value '': expected text, found none",
        "empty_completion",
    ),
    (
        {"prompt": "q", "responses": "a b", "ranking": [1, 2]},
        "ranking",
        "field 'responses': value 'a b': expected a list […], found text",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a", "score": 6},
        "rating",
        "field 'score': value 6: expected a number from 0 to 5",
        "out_of_range",
    ),
    (
        {"prompt": "q", "response": "a", "score": "high"},
        "rating",
        "field 'score': value 'high': expected a number from 0 to 5",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a", "score": {"safe": True}},
        "rating",
        "field 'score.safe': value True: expected a number from 0 to 5, found true/false",
        "wrong_type",
    ),
    (
        {"prompt": "q", "response": "a", "score": 1e999},
        "rating",
        "field 'score': value inf: expected a number from 0 to 5",
        "out_of_range",
    ),
    (
        {"prompt": "q", "label": "good"},
        "label",
        "field 'completion': is missing beside 'label'; the row has prompt, label",
        "missing_field",
    ),
    (
        {"prompt": "q", "constraints": "short"},
        "prompt",
        "field 'constraints': value 'short': expected a list […], found text",
        "wrong_type",
    ),
    (
        {"foo": 1, "bar": 2},
        "document",
        "the columns (foo, bar) fit no known form; name yours with columns",
        "unknown_form",
    ),
    ({"text": " "}, "document", "field 'text': value ' ': expected text, found none", "empty_text"),
    (
        {"prompt": "q", "response": "a", "label": 1, "score": 3},
        "label",
        "prompt, response, label, score fit a label and a rating; say which with kind",
        "ambiguous",
    ),
    (
        {"instruction": "q", "instances": [{"output": "a"}, {"output": "b"}]},
        "demonstration",
        "field 'instances': value [{'output': 'a'}, {'output': 'b'}]: expected one object",
        "several_instances",
    ),
    (
        {"text": "t", "provenance": {"origin": "martian"}},
        "document",
        "field 'provenance': value {'origin': 'martian'}: expected file, line, origin (human, ai, simulated, "
        "derived, unknown) and details with plain values",
        "bad_provenance",
    ),
]
GOOD = {
    "document": {"text": "t"},
    "prompt": {"prompt": "q"},
    "demonstration": {"prompt": "q", "response": "a"},
    "preference": {"prompt": "q", "chosen": "x", "rejected": "y"},
    "label": {"prompt": "q", "response": "a", "label": 1},
    "rating": {"prompt": "q", "response": "a", "score": 1},
    "ranking": {"prompt": "q", "responses": ["a", "b"], "ranking": [1, 2]},
}


@pytest.mark.parametrize(("row", "kind", "message", "reason"), BAD, ids=range(len(BAD)))
def test_bad_row_is_dropped_with_its_reason(tmp_path, row, kind, message, reason):
    file = tmp_path / "r.jsonl"
    file.write_text(
        "\n".join(json.dumps(r) for r in (GOOD[kind], GOOD[kind], row)).replace("Infinity", "1e999"),
        encoding="utf-8",
    )
    data = read_records(str(file))
    assert (data.kind, len(data.records), data.reasons) == (kind, 2, {reason: 1})
    assert str(data.dropped[0]) == f"{file}:3: {message}"
    with pytest.raises(DataError) as caught:
        read_records(str(file), strict=True)
    assert str(caught.value) == f"{file}:3: {message}"


@pytest.mark.parametrize("rank", [float("nan"), float("inf"), 1.5, True, "1", None])
def test_a_rank_that_is_no_whole_number_is_refused(rank):
    with pytest.raises(DataError) as caught:
        read.ranks([rank, 2], "ranking", 2)
    assert caught.value.reason == "not_a_ranking"
