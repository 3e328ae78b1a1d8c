"""Evaluation sets: what a row of each kind looks like, read from JSONL (or CSV, Parquet, a run folder).

| kind | a row | measured |
|---|---|---|
| prompts | any row with a prompt | win rates, reward, length |
| instructions | a prompt with `constraints` | share that satisfies all |
| harmlessness | a prompt and `safe`: true or false | compliance where safe, refusal where not |
| truthfulness | question, correct_answers, incorrect_answers, best_answer | MC1 and MC2 |
| toxicity | any row with a prompt | share of toxic answers |
| multiple_choice | question, choices, answer (index, letter or text), optional subject | accuracy |
| exact | a prompt and `answer` (a number, `… #### 72`, or a text) | accuracy |
| perplexity | text | perplexity |

Sets of kind `lm_eval` have no file: their path names tasks of lm-eval, see harness.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alignloop.data import messages as dialogues
from alignloop.data import values as read
from alignloop.data.columns import read_records
from alignloop.data.sources import Row, Spec, read_rows
from alignloop.errors import DataError
from alignloop.evaluation.choices import LETTERS, Question
from alignloop.records import Document, Message, Prompt, Provenance, Record, with_tools

BUILT_IN_REQUESTS = Path(__file__).with_name("harmlessness.jsonl")
"""52 requests in English and Korean: harmful ones, benign ones, and bait: benign ones in alarming words."""

_SAFE: Mapping[object, bool] = {"safe": True, "unsafe": False, "harmless": True, "harmful": False}


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt of a harmlessness set; `safe` says whether it should be answered."""

    prompt: Prompt
    safe: bool


def read_prompts(spec: Spec) -> list[Prompt]:
    """The distinct prompts of a data set of any kind, in order.

    Raises:
        DataError: documents, which have no prompts, or the first odd row.
    """
    records = [record for record in read_records(spec).records if not isinstance(record, Document)]
    if not records:
        raise DataError("these are documents, which have no prompts to answer", file=str(spec))
    found: dict[object, Prompt] = {}
    for record in records:
        found.setdefault(record.prompt, _as_prompt(record))
    return list(found.values())


def read_requests(spec: Spec) -> list[Request]:
    """Rows of a harmlessness set.

    Raises:
        DataError: a row without prompt or `safe`.
    """
    found = []
    for row in _rows(spec):
        safe = _field(row, "safe", "label", "type")
        known = safe if isinstance(safe, bool) else _SAFE.get(str(safe).casefold())
        if known is None:
            raise _fault(row, "safe", safe, "expected true or false, or safe or unsafe")
        found.append(Request(Prompt(_prompt(row), provenance=_place(row)), known))
    return found


def read_exact(spec: Spec) -> list[Prompt]:
    """Questions with a reference answer.

    Raises:
        DataError: a row without question or answer.
    """
    return [
        Prompt(_prompt(row), answer=str(_field(row, "answer", "target")), provenance=_place(row))
        for row in _rows(spec)
    ]


def read_multiple_choice(spec: Spec) -> list[Question]:
    """MMLU's form: lettered choices in the prompt, the letters as what the assistant may write.

    Raises:
        DataError: a row with fewer than 2 choices, or an answer that is none of them.
    """
    found = []
    for row in _rows(spec):
        choices = _texts(row, "choices", "options")
        if not 2 <= len(choices) <= len(LETTERS):
            raise _fault(row, "choices", choices, f"expected 2 to {len(LETTERS)} choices")
        right = _choice(row, choices)
        asked = str(_field(row, "question", "prompt")).strip()
        lines = [asked, *(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices)), "Answer:"]
        prompt = (Message("user", "\n".join(lines)),)
        letters = tuple(LETTERS[i] for i in range(len(choices)))
        found.append(Question(prompt, letters, tuple(i == right for i in range(len(choices)))))
    return found


def read_truthfulness(spec: Spec) -> list[tuple[Question, Question]]:
    """TruthfulQA's form: for each row (the best answer among the false ones, all answers).

    Raises:
        DataError: a row without right or wrong answers.
    """
    found = []
    for row in _rows(spec):
        right, wrong = _texts(row, "correct_answers"), _texts(row, "incorrect_answers")
        if not right or not wrong:
            raise _fault(row, "incorrect_answers", None, "right and wrong answers are needed")
        best = str(row.values.get("best_answer") or right[0]).strip()
        prompt = (Message("user", str(_field(row, "question", "prompt")).strip()),)
        one = Question(prompt, (best, *wrong), (True, *(False for _ in wrong)))
        every = Question(prompt, (*right, *wrong), (*(True for _ in right), *(False for _ in wrong)))
        found.append((one, every))
    return found


def read_documents(spec: Spec) -> list[Document]:
    """Texts for the perplexity.

    Raises:
        DataError: an odd row.
    """
    return [r for r in read_records(spec, kind="document").records if isinstance(r, Document)]


def _as_prompt(record: Record) -> Prompt:
    assert not isinstance(record, Document)
    return record if isinstance(record, Prompt) else Prompt(record.prompt, provenance=record.provenance)


def _rows(spec: Spec) -> Iterator[Row]:
    empty = True
    for row in read_rows(spec):
        empty = False
        yield row
    if empty:
        raise DataError("holds no row", file=str(spec), reason="no_rows")


def _place(row: Row) -> Provenance:
    return Provenance(row.file, row.line)


def _prompt(row: Row) -> tuple[Message, ...]:
    value = _field(row, "prompt", "question", "messages", "instruction")
    try:
        turns = (
            (Message("user", value),) if isinstance(value, str) else dialogues.conversation(value, "prompt")
        )
        turns = read.check_prompt(turns, "prompt")
        return with_tools(turns, dialogues.tools(row.values.get("tools"), "tools") or turns[0].tools)
    except DataError as error:
        raise _fault(row, "prompt", error.value, error.message) from None


def _field(row: Row, *names: str) -> object:
    for name in names:
        if row.values.get(name) is not None:
            return row.values[name]
    raise _fault(
        row, names[0], None, f"is missing (also accepted: {', '.join(names[1:]) or 'no other name'})"
    )


def _texts(row: Row, *names: str) -> tuple[str, ...]:
    value = _field(row, *names)
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise _fault(row, names[0], value, "expected a list of texts")
    return tuple(str(item).strip() for item in value)


def _choice(row: Row, choices: tuple[str, ...]) -> int:
    answer = _field(row, "answer", "label", "target")
    if isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
    elif str(answer).strip() in choices:
        index = choices.index(str(answer).strip())
    else:
        index = LETTERS.find(str(answer).strip().upper()) if len(str(answer).strip()) == 1 else -1
    if not 0 <= index < len(choices):
        raise _fault(
            row, "answer", answer, f"expected an index from 0, a letter, or one of {len(choices)} choices"
        )
    return index


def _fault(row: Row, field: str, value: object, message: str) -> DataError:
    return DataError(message, file=row.file, line=row.line, field=field, value=value)
