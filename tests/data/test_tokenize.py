"""Records to ids, counted by hand: one token for each character, its code point, and a few special ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from alignloop.data.chat import load_template
from alignloop.data.tokenize import (
    Encoder,
    attributes_of,
    document_pieces,
    tokenize,
    with_attributes,
)
from alignloop.errors import DataError
from alignloop.model.tiny import CHATML
from alignloop.records import (
    Demonstration,
    Document,
    Label,
    Message,
    Preference,
    Prompt,
    Provenance,
    Ranking,
    Rating,
)

BOS, EOS, START, END = 128, 129, 130, 131
SPECIAL = {"<s>": BOS, "</s>": EOS, "<|im_start|>": START, "<|im_end|>": END}
HI = (Message("user", "hi"),)


def make_tokenizer(pattern: str = "<s> $A", *, bos: str | None = "<s>", eos: str | None = "</s>"):
    """A token for each ASCII character; `pattern` is what encoding with special tokens puts around a text."""
    inner = Tokenizer(models.BPE({chr(code): code for code in range(128)}, []))
    inner.add_special_tokens(list(SPECIAL))
    used = [(token, number) for token, number in SPECIAL.items() if token in pattern]
    inner.post_processor = processors.TemplateProcessing(single=pattern, special_tokens=used)
    assert [inner.token_to_id(token) for token in SPECIAL] == [*SPECIAL.values()]
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, chat_template=CHATML)


def make_encoder(
    pattern: str = "<s> $A", template: str = "chatml", max_length: int = 1000, overlength="truncate", **tokens
) -> Encoder:
    tokenizer = make_tokenizer(pattern, **tokens)
    return Encoder(tokenizer, load_template(template, tokenizer), max_length, overlength)


def ids(*parts: int | str) -> list[int]:
    """Special tokens as they are, texts by their code points."""
    return [code for part in parts for code in ([part] if isinstance(part, int) else map(ord, part))]


CHAT = ids(START, "user\nhi", END, "\n", START, "assistant\n")


def test_a_prompt_gets_the_bos_that_the_tokenizer_wants_and_only_one() -> None:
    for template in ("chatml", "tokenizer"):  # one that writes the BOS, and one that does not
        assert make_encoder(template=template).prompt(HI).tolist() == [BOS, *CHAT]
    assert make_encoder("$A").prompt(HI).tolist() == CHAT  # has a BOS token and does not put it anywhere
    assert make_encoder("$A </s>").prompt(HI).tolist() == CHAT
    assert make_encoder("<s> $A </s>", "tokenizer").prompt(HI).tolist() == [BOS, *CHAT]
    assert make_encoder("$A </s>", "tokenizer").prompt(HI).tolist() == CHAT
    # ChatML begins with the token that this tokenizer calls its BOS
    assert make_encoder("<|im_start|> $A", bos="<|im_start|>").prompt(HI).tolist() == CHAT
    assert make_encoder().prompt(HI).dtype == np.int32


def test_a_completion_has_its_end_of_turn_once_and_no_bos() -> None:
    for pattern in ("<s> $A", "$A", "<s> $A </s>"):
        assert make_encoder(pattern).completion("yes").tolist() == ids("yes", END)
    assert make_encoder(template="plain").completion("yes").tolist() == ids("yes", EOS)
    assert make_encoder().completion("yes").dtype == np.int32


def test_a_document_stands_between_bos_and_eos() -> None:
    assert make_encoder().document("abc").tolist() == ids(BOS, "abc", EOS)
    assert make_encoder("<s> $A </s>").document("abc").tolist() == ids(BOS, "abc", EOS)
    assert make_encoder("$A").document("abc").tolist() == ids("abc", EOS)
    assert make_encoder(eos=None).document("abc").tolist() == ids(BOS, "abc")
    # what a tokenizer puts in front besides a BOS is its own, and stays
    assert make_encoder("<|im_end|> <s> $A").document("abc").tolist() == ids(END, BOS, "abc", EOS)
    assert make_encoder().document("abc").dtype == np.int32


def test_each_kind_of_record_becomes_its_group() -> None:
    rows = [
        Demonstration(HI, "a"),
        Preference(HI, "good", "no", probability=0.75, margin=2.0),
        Label(HI, "b", desirable=True),
        Label(HI, "b", desirable=False),
        Rating(HI, "c", {"help": 4.0, "style": 1.5}),
        Ranking(HI, ("x", "y", "z"), (2, 1, 2)),
    ]
    result = tokenize(rows, make_encoder())
    assert (result.dropped, result.truncated, result.turns) == ([], 0, 1)  # compared answers are no turns
    assert [group.index for group in result.groups] == [0, 1, 2, 3, 4, 5]
    texts = [["a"], ["good", "no"], ["b"], ["b"], ["c"], ["x", "y", "z"]]
    for group, expected in zip(result.groups, texts, strict=True):
        assert group.prompt_ids.tolist() == [BOS, *CHAT]
        assert [item.ids.tolist() for item in group.completions] == [ids(text, END) for text in expected]
        assert all(item.mask.tolist() == [True] * len(item.ids) for item in group.completions)
        assert group.prompt_ids.dtype == group.completions[0].ids.dtype == np.int32
        assert group.completions[0].mask.dtype == np.bool_
    values = [group.values for group in result.groups]
    assert values[:2] == [{}, {"probability": 0.75, "margin": 2.0}]
    assert [value["desirable"].tolist() for value in values[2:4]] == [[True], [False]]
    assert values[4]["ratings"].tolist() == [[4.0, 1.5]]
    assert values[4]["ratings"].dtype == np.float32
    assert values[5] == {"ranks": [2.0, 1.0, 2.0]}


def test_the_prompt_is_trained_on_for_demonstrations_only_where_it_is_asked_for() -> None:
    rows = [Demonstration(HI, "yes"), Preference(HI, "a", "b")]
    plain = tokenize(rows, make_encoder()).groups[0]
    shown, pair = tokenize(rows, make_encoder(), train_on_prompt=True).groups
    assert plain.prompt_ids.tolist() == [BOS, *CHAT]
    assert shown.prompt_ids.tolist() == []
    assert shown.completions[0].ids.tolist() == [BOS, *CHAT, *ids("yes", END)]
    assert shown.completions[0].mask.tolist() == [True] * (1 + len(CHAT) + 4)
    assert shown.index == 0
    assert make_encoder().group(rows[0]).prompt_ids.tolist() == [BOS, *CHAT]
    assert make_encoder().group(rows[0]).index == 0
    assert pair.prompt_ids.tolist() == [BOS, *CHAT]
    assert [item.ids.tolist() for item in pair.completions] == [ids("a", END), ids("b", END)]


LONG = 1 + len(CHAT) + 4  # BOS, prompt, "yes" and its end of turn


@pytest.mark.parametrize("overlength", ["drop", "truncate", "error"])
def test_a_row_of_max_length_fits(overlength: str) -> None:
    result = tokenize([Demonstration(HI, "yes")], make_encoder(max_length=LONG, overlength=overlength))
    (group,) = result.groups
    assert result.truncated == 0
    assert (group.prompt_ids.tolist(), len(group.completions[0].ids)) == ([BOS, *CHAT], 4)


def test_a_longer_row_is_cut_dropped_or_stops() -> None:
    rows = [Demonstration(HI, "yes", Provenance("a.jsonl", 7)), Demonstration(HI, "a")]
    cut = tokenize(rows, make_encoder(max_length=LONG - 1))
    # the prompt loses its first token but for the BOS; the other row is two tokens shorter
    assert cut.groups[0].prompt_ids.tolist() == [BOS, *CHAT[1:]]
    assert cut.groups[0].completions[0].ids.tolist() == ids("yes", END)
    assert (cut.truncated, cut.dropped) == (1, [])
    pair = tokenize([Preference(HI, "a", "yes"), rows[1]], make_encoder(max_length=LONG - 1))
    assert pair.truncated == 1
    assert [len(item.ids) for item in pair.groups[0].completions] == [2, 4]
    # a row whose prompt was cut is still known by the whole of it; the others need no second copy
    assert pair.groups[0].key == np.asarray([BOS, *CHAT], dtype=np.int32).tobytes()
    assert pair.groups[1].key == b""
    assert tokenize([Preference(HI, "a", "b")], make_encoder()).groups[0].key == b""
    dropped = tokenize(rows, make_encoder(max_length=LONG - 1, overlength="drop"))
    assert [group.index for group in dropped.groups] == [1]
    assert (dropped.truncated, dropped.reasons) == (0, {"overlength": 1})
    (error,) = dropped.dropped
    assert (error.file, error.line, error.field) == ("a.jsonl", 7, "prompt")
    with pytest.raises(DataError, match=f"{LONG - 4} . 4 tokens, max_length is {LONG - 1}") as caught:
        tokenize(rows[::-1], make_encoder(max_length=LONG - 1, overlength="error"))
    assert caught.value.line == 7


def test_rows_with_nothing_to_train_on_are_dropped_with_their_place() -> None:
    rows = [
        Demonstration(HI, " \n", Provenance("a.jsonl", 1)),
        Preference(HI, "a", "", provenance=Provenance("a.jsonl", 2)),
        Prompt(HI, provenance=Provenance("a.jsonl", 3)),
        Demonstration(HI, "b", Provenance("a.jsonl", 4)),
    ]
    # under 'error' too: it speaks of length only
    result = tokenize(rows, make_encoder(overlength="error"))
    assert [group.index for group in result.groups] == [3]
    found = [(error.reason, error.file, error.line) for error in result.dropped]
    assert found == [
        ("empty_completion", "a.jsonl", 1),
        ("empty_completion", "a.jsonl", 2),
        ("no_completion", "a.jsonl", 3),
    ]
    assert result.reasons == {"empty_completion": 2, "no_completion": 1}
    with pytest.raises(DataError) as caught:
        tokenize(rows[:3], make_encoder())
    assert "no row is left to train on (2× empty_completion, 1× no_completion); first: " in str(caught.value)
    assert (caught.value.file, caught.value.reason) == ("a.jsonl", "no_rows")
    with pytest.raises(DataError, match=r"no row is left to train on \(no rows\)$"):
        tokenize([], make_encoder())


def test_a_document_becomes_pieces_that_share_a_token() -> None:
    result = tokenize([Document("abcde"), Document("f")], make_encoder(max_length=4))
    pieces = [ids(BOS, "abc"), ids("cde", EOS), ids(BOS, "f", EOS)]
    assert [group.completions[0].ids.tolist() for group in result.groups] == pieces
    assert [group.index for group in result.groups] == [0, 0, 1]
    assert all(len(group.prompt_ids) == 0 and group.completions[0].mask.all() for group in result.groups)
    with pytest.raises(TypeError, match="several groups"):
        make_encoder().group(Document("a"))


def test_pieces_of_a_document_predict_each_token_but_the_first_once() -> None:
    def pieces(length: int, most: int) -> list[list[int]]:
        return [piece.tolist() for piece in document_pieces(np.arange(length), most)]

    assert pieces(10, 4) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert pieces(9, 4) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8]]
    assert pieces(8, 4) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert pieces(4, 4) == [[0, 1, 2, 3]]
    assert pieces(3, 2) == [[0, 1], [1, 2]]
    assert pieces(2, 9) == [[0, 1]]
    assert pieces(1, 9) == pieces(0, 9) == pieces(3, 1) == []


def test_every_rating_has_all_attributes_in_one_order() -> None:
    rows = [
        Rating(HI, "a", {"style": 2.0}),
        Demonstration(HI, "b"),
        Rating(HI, "c", {"help": 3.0, "style": 1.0}),
    ]
    assert attributes_of(rows) == ("style", "help")
    first, demonstration, last = with_attributes(rows, ("style", "help"))
    assert isinstance(first, Rating)
    assert isinstance(last, Rating)
    assert list(first.scores) == list(last.scores) == ["style", "help"]
    assert first.scores["style"] == 2.0
    assert math.isnan(first.scores["help"])
    assert last.scores == {"style": 1.0, "help": 3.0}
    assert demonstration is rows[1]


def test_a_conversation_that_is_too_long_keeps_its_bos() -> None:
    """Prompt and first turn have LONG tokens; the row keeps the first turn and what fits of the rest."""
    talk = [Demonstration((*HI, Message("assistant", "yes"), *HI), "no")]
    for most, prompt in ((LONG, [BOS, *CHAT]), (LONG - 1, [BOS, *CHAT[1:]]), (LONG - 5, [BOS, *CHAT[5:]])):
        made = tokenize(talk, make_encoder(max_length=most))
        (group,) = made.groups
        assert (group.prompt_ids.tolist(), made.truncated, made.turns) == (prompt, 1, 2)
        assert group.completions[0].ids.tolist() == ids("yes", END)
        assert group.completions[0].mask.all()
        assert group.question == np.asarray([BOS, *CHAT], np.int32).tobytes()
    whole = tokenize(talk, make_encoder()).groups[0].completions[0]
    assert whole.ids.tolist() == ids("yes", END, "\n", *CHAT, "no", END)
    assert whole.mask.dtype == np.bool_
    assert whole.mask.tolist() == [True] * 4 + [False] * (1 + len(CHAT)) + [True] * 3
    asked = tokenize(talk, make_encoder(max_length=LONG), train_on_prompt=True).groups[0]
    assert (asked.prompt_ids.tolist(), asked.completions[0].ids.tolist()) == (
        [],
        [BOS, *CHAT, *ids("yes", END)],
    )
    assert asked.question == np.asarray([BOS, *CHAT], np.int32).tobytes()


def test_what_a_question_is_in_a_row_that_begins_with_a_greeting() -> None:
    hello = Message("assistant", "hello")
    made = tokenize([Demonstration((hello, *HI), "yes"), Demonstration((hello, *HI), "no")], make_encoder())
    first, second = made.groups
    assert first.question == second.question == first.prompt_ids.tobytes()
    assert first.key == b""
    called = (Message("system", "s"), hello, Message("tool", "1"))
    (group,) = tokenize(
        [Demonstration((*called, Message("assistant", "b"), *HI), "c")], make_encoder()
    ).groups
    assert group.question == make_encoder().prompt(called).tobytes()


def test_a_turn_of_weight_0_is_left_out_of_a_prompt_that_is_trained() -> None:
    excepted = Demonstration((*HI, Message("assistant", "yes", train=False), *HI), "no", train=None)
    made = tokenize([excepted], make_encoder(), train_on_prompt=True)
    (group,) = made.groups
    counted = group.completions[0].ids[group.completions[0].mask].tolist()
    assert counted == [BOS, *CHAT, *ids("\n"), *CHAT, *ids("no", END)]
    # what follows the last counted token is left out
    last = Demonstration((*HI, Message("assistant", "yes"), *HI), "no", train=False)
    (group,) = tokenize([last], make_encoder(), train_on_prompt=True).groups
    assert group.completions[0].ids.tolist()[-len(CHAT) :] == CHAT
    with pytest.raises(DataError, match="train_on is last"):
        tokenize([last], make_encoder(), train_on="last")


def test_the_beginning_of_an_answer_has_no_end_of_turn() -> None:
    encoder = make_encoder()
    assert encoder.begin("yes", HI).tolist() == ids("yes")
    assert encoder.ending().tolist() == [END]
    assert make_encoder(template="plain").begin("yes", HI).tolist() == ids("yes")
    assert encoder.completion("a", ()).tolist() == encoder.completion("a").tolist() == ids("a", END)


def test_marks_in_a_document_are_text_unless_they_are_allowed() -> None:
    encoder = make_encoder()
    assert encoder.document("a</s>b").tolist() == ids(BOS, "a</s>b", EOS)
    assert make_encoder("$A").document("a</s>b").tolist() == ids("a</s>b", EOS)
    allowed = Encoder(encoder.tokenizer, encoder.template, special_tokens=True)
    assert allowed.document("a</s>b").tolist() == ids(BOS, "a", EOS, "b", EOS)
    assert allowed.document("a</s>").tolist() == ids(BOS, "a", EOS)
    assert Encoder(encoder.tokenizer, encoder.template).max_length == 1024


def test_what_the_faults_and_pieces_of_a_row_are_known_by() -> None:
    made = tokenize([Document("abcde"), Document("f"), Demonstration(HI, " ")], make_encoder(max_length=4))
    first = np.asarray(ids(BOS, "abc"), np.int32).tobytes()
    assert [group.key for group in made.groups] == [first, first, b""]
    assert (made.dropped[0].field, made.dropped[0].value, made.truncated, made.turns) == ("", None, 0, 0)
    with pytest.raises(TypeError, match="not a record: str"):
        make_encoder().group("a")  # pyright: ignore[reportArgumentType]
