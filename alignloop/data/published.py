"""Published forms of data: rows of well-known data sets and tools under the columns that are read here.

Each form is one entry of `FORMS`: the columns by which it is told, and how a row becomes rows of our columns
(see `forms`). A row of no form is read as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from alignloop.data import message_trees, transcripts
from alignloop.data.multiple_choice import FORMS as QUESTIONS
from alignloop.data.paths import Watched, at, taken, unseen
from alignloop.data.published_rows import (
    CHOICES,
    HELPSTEER,
    JUDGED,
    PROCESS,
    UNSAFE,
    RowValues,
    View,
    arena_55k,
    arena_conversations,
    argilla,
    argilla_records,
    by_strength,
    chosen_by,
    dialogue,
    every_pair,
    fields,
    helpsteer,
    hendrycks,
    label_studio,
    nectar,
    pair,
    ranked_responses,
    rated_summary,
    rejected_response,
    right_and_wrong,
    safe_label,
    scored_responses,
    stack_exchange,
    summaries,
    turns,
    ultrafeedback_ranking,
    ultrafeedback_ratings,
    webgpt,
)
from alignloop.errors import DataError


@dataclass(frozen=True, slots=True)
class Form:
    """One published form.

    Attributes:
        name: of the data set or tool.
        needs: columns that a row of this form has.
        views: for a kind of record, how a row becomes rows with our columns; "" for all other kinds.
        uses: further columns that are read, or that say nothing about a row's meaning.
        lacks: columns that a row of this form does not have.
        when: what else tells a row of this form; the values of `needs` are there.
    """

    name: str
    needs: tuple[str, ...]
    views: Mapping[str, View]
    uses: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    when: Callable[[RowValues], bool] = lambda row: True

    def fits(self, row: RowValues) -> bool:
        """Whether a row has this form."""
        if any(at(row, name) is None for name in self.needs) or any(name in row for name in self.lacks):
            return False
        return self.when(row)

    def view(self, kind: str) -> View:
        """How a row becomes rows of a kind."""
        return self.views.get(kind, self.views.get("", next(iter(self.views.values()))))


def _marked(column: str) -> Callable[[RowValues], bool]:
    return lambda row: transcripts.marks_of(row[column]) is not None


def _texts(*columns: str) -> Callable[[RowValues], bool]:
    return lambda row: all(
        isinstance(row[name], list) and row[name] and all(isinstance(item, str) for item in row[name])
        for name in columns
    )


def _same(row: RowValues) -> list[dict[str, Any]]:
    return [dict(row)]


FORMS: tuple[Form, ...] = (
    Form(
        "OpenAssistant trees",
        ("message_tree_id", "prompt"),
        {
            "ranking": message_trees.comparisons,
            "preference": message_trees.pairs,
            "prompt": message_trees.questions,
            "": message_trees.conversation,
        },
        ("tree_state",),
        (),
        lambda row: isinstance(row["prompt"], Mapping) and "replies" in row["prompt"],
    ),
    Form(
        "UltraFeedback",
        ("instruction", "completions", "models"),
        {"ranking": ultrafeedback_ranking, "demonstration": JUDGED, "": ultrafeedback_ratings},
    ),
    Form("HelpSteer", ("prompt", "response", *HELPSTEER), {"demonstration": JUDGED, "": helpsteer}),
    Form(
        "HelpSteer 2, preferences",
        ("prompt", "response_1", "response_2", "preference_strength"),
        {"": by_strength("prompt", "response_1", "response_2", "preference_strength")},
        ("split", "preference_statement", "preference_elaboration"),
    ),
    Form(
        "HelpSteer 3",
        ("context", "response1", "response2", "overall_preference"),
        {"": by_strength("context", "response1", "response2", "overall_preference")},
    ),
    Form("Nectar", ("prompt", "answers", "num_responses"), {"": nectar}),
    Form("Nectar", ("prompt", "answers", "good_natured"), {"": nectar}),
    Form(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        {"": pair("prompt", "response_0", "response_1", chosen_by("better_response_id", {0: "a", 1: "b"}))},
    ),
    Form(
        "BeaverTails",
        ("prompt", "response", "is_safe"),
        {
            "demonstration": lambda row: (
                fields(prompt="prompt", response="response")(row) if row["is_safe"] else UNSAFE(row)
            ),
            "prompt": fields(prompt="prompt"),
            "": safe_label,
        },
    ),
    Form(
        "SHP",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        {"": pair("history", "human_ref_A", "human_ref_B", chosen_by("labels", {1: "a", 0: "b"}))},
    ),
    Form("Chatbot Arena 55k", ("prompt", "response_a", "response_b", "winner_model_a"), {"": arena_55k}),
    Form(
        "Chatbot Arena conversations",
        ("conversation_a", "conversation_b", "winner"),
        {"": arena_conversations},
        ("turn",),
    ),
    Form(
        "Argilla records",
        ("fields", "responses"),
        {"": argilla_records},
        ("status", "inserted_at", "updated_at", "_server_id"),
        (),
        lambda row: isinstance(row["fields"], Mapping) and isinstance(row["responses"], Mapping),
    ),
    Form(
        "Argilla",
        ("instruction", "response1", "response2", "preference.responses"),
        {"": argilla},
        ("preference.responses.status",),
    ),
    Form("Label Studio, pairwise", ("annotations", "data"), {"": label_studio}),
    Form(
        "OpenAI preferences",
        ("input", "preferred_output", "non_preferred_output"),
        {
            "": fields(
                prompt="input.messages",
                tools="input.tools",
                chosen="preferred_output",
                rejected="non_preferred_output",
            )
        },
    ),
    Form(
        "ms-swift",
        ("messages", "rejected_response"),
        {"demonstration": lambda row: [{"messages": row["messages"]}], "": rejected_response},
    ),
    Form(
        "verl",
        ("prompt", "reward_model"),
        {"": fields(prompt="prompt", answer="reward_model.ground_truth")},
        ("data_source", "ability", "extra_info"),
    ),
    Form("summarize_from_feedback", ("info", "summaries", "choice"), {"": summaries}),
    Form("webgpt comparisons", ("question", "answer_0", "answer_1", "score_0", "score_1"), {"": webgpt}),
    Form("summarize_from_feedback, axes", ("info", "summary", "worker"), {"": rated_summary}),
    Form("stack-exchange preferences", ("question", "answers", "qid"), {"": stack_exchange}),
    Form(
        "stack-exchange, paired",
        ("question", "response_j", "response_k"),
        {"": fields(prompt="question", chosen="response_j", rejected="response_k")},
    ),
    Form(
        "AlpacaEval annotations",
        ("instruction", "output_1", "output_2", "preference"),
        {
            "": pair(
                "instruction", "output_1", "output_2", chosen_by("preference", {1: "a", 2: "b", 1.5: "tie"})
            )
        },
    ),
    Form("UltraChat", ("data",), {"": turns}, ("id",), ("annotations", "prompt", "messages"), _texts("data")),
    Form(
        "messages under `data`",
        ("data",),
        {"": fields(messages="data")},
        ("id",),
        ("annotations", "prompt", "messages"),
        lambda row: isinstance(row["data"], list),
    ),
    Form("LMSYS chat", ("conversation",), {"": fields(messages="conversation")}, ("turn",), ("messages",)),
    Form("glaive", ("chat",), {"": dialogue("chat")}, ("system",), ("messages",), _marked("chat")),
    Form("chat", ("chat",), {"": fields(messages="chat")}, (), ("messages",)),
    Form(
        "LIMA",
        ("conversations",),
        {"": lambda row: turns({"data": row["conversations"]})},
        (),
        ("messages",),
        _texts("conversations"),
    ),
    Form(
        "RewardBench 2",
        ("prompt", "chosen", "rejected"),
        {"ranking": right_and_wrong, "": every_pair},
        ("num_correct", "num_incorrect", "total_completions", "num_rejected"),
        (),
        _texts("chosen", "rejected"),
    ),
    Form(
        "scored responses",
        ("prompt", "responses", "scores"),
        {"ranking": ranked_responses, "demonstration": JUDGED, "": scored_responses},
        (),
        ("ranking", "ranks"),
    ),
    Form("KTO tags of LLaMA-Factory", ("kto_tag",), {"": fields(label="kto_tag")}),
    Form(
        "MATH",
        ("problem", "solution"),
        {"demonstration": fields(prompt="problem", response="solution"), "": hendrycks},
        ("level", "type"),
    ),
    Form("step labels", ("prompt", "completions", "labels"), {"": PROCESS}),
    *(Form(form.name, form.needs, {"": CHOICES}, (), form.lacks) for form in QUESTIONS if not form.told),
    Form(
        "dialogue in one text",
        ("text",),
        {"document": _same, "": dialogue("text")},
        (),
        ("provenance", "instruction", "prompt", "messages", "conversations", "completion", "response"),
        _marked("text"),
    ),
)
"""The first form that fits a row is its form."""


@lru_cache(maxsize=1024)
def _likely(columns: tuple[str, ...]) -> tuple[Form, ...]:
    """The forms whose columns are all there, in their order."""
    there = {*columns}
    return tuple(
        form
        for form in FORMS
        if all(name in there or name.partition(".")[0] in there for name in form.needs)
        and not any(name in there for name in form.lacks)
    )


def form_of(row: RowValues) -> Form | None:
    """The published form of a row."""
    return next((form for form in _likely(tuple(row)) if form.fits(row)), None)


_OTHER_TYPES = (TypeError, ValueError, AttributeError, LookupError, OverflowError)
"""What a view raises where a stranger's row holds values of other types than its form has."""


@dataclass(frozen=True, slots=True)
class Read:
    """A row under our columns.

    Attributes:
        rows: for records of one kind each.
        unread: keys within the columns of its form that nothing is read from, such as
            `completions[].critique`.
    """

    rows: list[dict[str, Any]]
    unread: tuple[str, ...] = ()


def read_row(row: RowValues, kind: str) -> Read:
    """A row as rows with our columns; itself where it has no published form.

    Columns that the form does not use stay beside them, so that `columns: {…}` can still name them.

    Raises:
        DataError: a row of a form that cannot be read as this kind, or a wrong value in it.
    """
    form = form_of(row)
    if form is None:
        return Read([dict(row)])
    seen: set[str] = set()
    nested = {name: row[name] for name in form.needs if isinstance(row.get(name), list | Mapping)}
    try:
        made = form.view(kind)(Watched(row, "", seen))
    except _OTHER_TYPES as error:
        raise DataError(
            f"has the columns of {form.name}, but something else in them ({error})", reason="wrong_type"
        ) from error
    seen |= set(taken(made))
    found = [unseen(value, name, seen) for name, value in nested.items()]
    unread = tuple(path for paths, looked in found if looked for path in paths)
    heads = {*form.needs, *form.uses} | seen
    rest = {k: v for k, v in row.items() if k not in heads}
    if kind == "prompt":  # each question once, however many answers the row has
        made = list({repr((one.get("prompt"), one.get("messages"))): one for one in reversed(made)}.values())
        made.reverse()
    known = {name for one in made for name in one}
    rows = [{**{k: v for k, v in rest.items() if k not in known}, **_present(one)} for one in made]
    return Read(rows, unread)


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
