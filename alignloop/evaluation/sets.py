"""Evaluation sets: what a row of each kind looks like, read from JSONL (or CSV, Parquet, a run folder).

| kind | a row | measured |
|---|---|---|
| prompts | any row with a prompt | win rates, reward, length |
| instructions | a prompt with `constraints` | share that satisfies all |
| harmlessness | a prompt and `safe`: true or false | compliance where safe, refusal where not |
| truthfulness | TruthfulQA's rows: question and targets, or its answers | MC1 and MC2 |
| toxicity | any row with a prompt | share of toxic answers |
| multiple_choice | question, choices, answer, or a form of `multiple_choice` | accuracy |
| exact | a prompt and `answer` (a number, `… #### 72`, or a text) | accuracy |
| perplexity | text | perplexity |
| preferences | judged pairs, in any form that `data check` knows | which answer the model finds likelier |

Sets of kind `lm_eval` have no file: their path names tasks of lm-eval, see harness.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alignloop.data import messages as dialogues
from alignloop.data import multiple_choice
from alignloop.data import values as read
from alignloop.data.columns import read_records
from alignloop.data.multiple_choice import LETTERS, ChoiceQuestion
from alignloop.data.sources import SourceRow, Spec, read_rows
from alignloop.errors import DataError
from alignloop.evaluation.choices import Question
from alignloop.records import Document, Message, Preference, Prompt, Provenance, Record, with_tools

BUILT_IN_REQUESTS = Path(__file__).with_name("harmlessness.jsonl")
"""52 requests in English and Korean: harmful ones, benign ones, and bait: benign ones in alarming words."""

_SAFE: Mapping[object, bool] = {"safe": True, "unsafe": False, "harmless": True, "harmful": False}


@dataclass(frozen=True, slots=True)
class HarmRequest:
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


def read_requests(spec: Spec) -> list[HarmRequest]:
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
        found.append(HarmRequest(Prompt(_prompt(row), provenance=_place(row)), known))
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
    """Lettered choices in the prompt, the letters as what the assistant may write, as MMLU asks.

    Raises:
        DataError: a row of no form that is known, with fewer than 2 choices, or an answer that is none
            of them.
    """
    return [question_of(choice) for _, choice in _choices(spec)]


def question_of(choice: ChoiceQuestion) -> Question:
    """A multiple-choice question as a model is asked it."""
    if choice.told:
        return Question((Message("user", choice.question),), choice.choices, choice.right)
    lines = [choice.question, *(f"{LETTERS[i]}. {text}" for i, text in enumerate(choice.choices)), "Answer:"]
    letters = tuple(LETTERS[i] for i in range(len(choice.choices)))
    return Question((Message("user", "\n".join(lines)),), letters, choice.right)


def _choices(spec: Spec) -> Iterator[tuple[SourceRow, ChoiceQuestion]]:
    for row in _rows(spec):
        try:
            yield row, multiple_choice.choice_of(row.values)
        except DataError as error:
            raise _fault(row, error.field, error.value, error.message) from None


def read_truthfulness(spec: Spec) -> list[tuple[Question, Question]]:
    """TruthfulQA's form: for each row (the best answer among the false ones, all answers).

    Raises:
        DataError: a row without right or wrong answers.
    """
    found = []
    for row in _rows(spec):
        if multiple_choice.TRUTHFUL.fits(row.values):
            forms = (multiple_choice.SINGLE, multiple_choice.TRUTHFUL)
            try:
                single, every = (form.read(row.values) for form in forms)
            except DataError as error:
                raise _fault(row, error.field, error.value, error.message) from None
            found.append((_unlettered(single), _unlettered(every)))
            continue
        right, wrong = _texts(row, "correct_answers"), _texts(row, "incorrect_answers")
        if not right or not wrong:
            raise _fault(row, "incorrect_answers", None, "right and wrong answers are needed")
        best = str(row.values.get("best_answer") or right[0]).strip()
        prompt = (Message("user", str(_field(row, "question", "prompt")).strip()),)
        one = Question(prompt, (best, *wrong), (True, *(False for _ in wrong)))
        every = Question(prompt, (*right, *wrong), (*(True for _ in right), *(False for _ in wrong)))
        found.append((one, every))
    return found


def _unlettered(choice: ChoiceQuestion) -> Question:
    return Question((Message("user", choice.question),), choice.choices, choice.right)


def read_documents(spec: Spec) -> list[Document]:
    """Texts for the perplexity.

    Raises:
        DataError: an odd row.
    """
    return [r for r in read_records(spec, kind="document").records if isinstance(r, Document)]


def read_preferences(spec: Spec) -> list[Question]:
    """Judged pairs as questions with two choices, the better one first; ties are left out.

    Raises:
        DataError: no pair of which one answer is better.
    """
    pairs = [record for record in read_records(spec, "preference").records if isinstance(record, Preference)]
    found = [
        Question(
            p.prompt, (p.chosen, p.rejected) if p.probability > 0.5 else (p.rejected, p.chosen), (True, False)
        )
        for p in pairs
        if p.probability != 0.5
    ]
    if not found:
        raise DataError("no pair has a better answer", file=str(spec), reason="no_rows")
    return found


def _as_prompt(record: Record) -> Prompt:
    assert not isinstance(record, Document)
    return record if isinstance(record, Prompt) else Prompt(record.prompt, provenance=record.provenance)


def _rows(spec: Spec) -> Iterator[SourceRow]:
    empty = True
    for row in read_rows(spec):
        empty = False
        yield row
    if empty:
        raise DataError("holds no row", file=str(spec), reason="no_rows")


def _place(row: SourceRow) -> Provenance:
    return Provenance(row.file, row.line)


def _prompt(row: SourceRow) -> tuple[Message, ...]:
    value = _field(row, "prompt", "question", "messages", "instruction")
    try:
        turns = (
            (Message("user", value),) if isinstance(value, str) else dialogues.conversation(value, "prompt")
        )
        turns = read.check_prompt(turns, "prompt")
        return with_tools(turns, dialogues.tools(row.values.get("tools"), "tools") or turns[0].tools)
    except DataError as error:
        raise _fault(row, "prompt", error.value, error.message) from None


def _field(row: SourceRow, *names: str) -> object:
    for name in names:
        if row.values.get(name) is not None:
            return row.values[name]
    raise _fault(
        row, names[0], None, f"is missing (also accepted: {', '.join(names[1:]) or 'no other name'})"
    )


def _texts(row: SourceRow, *names: str) -> tuple[str, ...]:
    value = _field(row, *names)
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise _fault(row, names[0], value, "expected a list of texts")
    return tuple(str(item).strip() for item in value)


def _fault(row: SourceRow, field: str, value: object, message: str) -> DataError:
    return DataError(message, file=row.file, line=row.line, field=field, value=value)
