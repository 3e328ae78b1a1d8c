"""Published forms of data: rows of well-known data sets and tools under the columns that are read here.

Each form is one entry of `FORMS`: the columns by which it is told, and how a row becomes rows of our columns
(see `forms`). A row of no form is read as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignloop.data.published_rows import (
    CHOICES,
    HELPSTEER,
    PROCESS,
    UNSAFE,
    RowValues,
    View,
    arena_55k,
    arena_conversations,
    argilla,
    chosen_by,
    dialogue,
    fields,
    helpsteer,
    helpsteer_preference,
    hendrycks,
    label_studio,
    nectar,
    pair,
    ranked_responses,
    rejected_response,
    safe_label,
    scored_responses,
    stack_exchange,
    summaries,
    turns,
    ultrafeedback_ranking,
    ultrafeedback_ratings,
    webgpt,
)


@dataclass(frozen=True, slots=True)
class Form:
    """One published form.

    Attributes:
        name: of the data set or tool.
        needs: columns that a row of this form has.
        views: for a kind of record, how a row becomes rows with our columns; "" for all other kinds.
        uses: further columns that are read, or that say nothing about a row's meaning.
        lacks: columns that a row of this form does not have.
        text: what the first of `needs` begins with.
        keeps: whether the columns by which it is told stay beside the new ones.
    """

    name: str
    needs: tuple[str, ...]
    views: Mapping[str, View]
    uses: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    text: re.Pattern[str] | None = None
    keeps: bool = False

    def fits(self, row: RowValues) -> bool:
        """Whether a row has this form."""
        if any(row.get(name) is None for name in self.needs) or any(name in row for name in self.lacks):
            return False
        return self.text is None or self.text.match(str(row[self.needs[0]])) is not None


_MARKED = re.compile(r"\s*### Human:.*### Assistant:", re.DOTALL)


FORMS: tuple[Form, ...] = (
    Form(
        "UltraFeedback",
        ("instruction", "completions", "models"),
        {"ranking": ultrafeedback_ranking, "": ultrafeedback_ratings},
    ),
    Form("HelpSteer", ("prompt", "response", *HELPSTEER), {"rating": helpsteer, "": helpsteer}),
    Form(
        "HelpSteer 2 and 3 preferences",
        ("response_1", "response_2", "preference_strength"),
        {"": helpsteer_preference},
        ("split", "prompt", "context", "preference_statement", "preference_elaboration"),
    ),
    Form(
        "HelpSteer 3",
        ("context", "response1", "response2", "overall_preference"),
        {
            "": lambda row: helpsteer_preference(
                {
                    **row,
                    "response_1": row["response1"],
                    "response_2": row["response2"],
                    "preference_strength": row["overall_preference"],
                    "prompt": row["context"],
                }
            )
        },
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
    Form("Argilla", ("instruction", "response1", "response2", "preference.responses"), {"": argilla}),
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
    Form("stack-exchange preferences", ("question", "answers", "qid"), {"": stack_exchange}),
    Form("UltraChat", ("data",), {"": turns}, ("id",), ("annotations", "prompt", "messages")),
    Form("LMSYS chat", ("conversation",), {"": fields(messages="conversation")}, ("turn",), ("messages",)),
    Form("chat", ("chat",), {"": fields(messages="chat")}, (), ("messages",)),
    Form(
        "LIMA",
        ("conversations", "source"),
        {
            "": lambda row: (
                turns({"data": row["conversations"]})
                if all(isinstance(t, str) for t in row["conversations"])
                else [{"messages": row["conversations"]}]
            )
        },
    ),
    Form(
        "scored responses",
        ("prompt", "responses", "scores"),
        {"ranking": ranked_responses, "": scored_responses},
        (),
        ("ranking", "ranks"),
    ),
    Form(
        "KTO tags of LLaMA-Factory", ("kto_tag",), {"": lambda row: [{"label": row["kto_tag"]}]}, keeps=True
    ),
    Form(
        "MATH",
        ("problem", "solution"),
        {"demonstration": fields(prompt="problem", response="solution"), "": hendrycks},
        ("level", "type"),
    ),
    Form("step labels", ("prompt", "completions", "labels"), {"": PROCESS}),
    Form("MMLU", ("question", "choices", "answer"), {"": CHOICES}),
    Form("KMMLU", ("question", "A", "B", "C", "D", "answer"), {"": CHOICES}),
    Form("guanaco", ("text",), {"": dialogue, "document": lambda row: [dict(row)]}, text=_MARKED),
)
"""The first form that fits a row is its form."""


def form_of(row: RowValues) -> Form | None:
    """The published form of a row."""
    return next((form for form in FORMS if form.fits(row)), None)


def rows_of(row: RowValues, kind: str) -> list[dict[str, Any]]:
    """A row as rows with our columns; itself where it has no published form.

    Columns that the form does not use stay beside them, so that `columns: {…}` can still name them.

    Raises:
        DataError: a row of a form that cannot be read as this kind, or a wrong value in it.
    """
    form = form_of(row)
    if form is None:
        return [dict(row)]
    view = form.views.get(kind, form.views.get("", next(iter(form.views.values()))))
    made = view(row)
    read = form.uses if form.keeps else (*form.needs, *form.uses)
    rest = {k: v for k, v in row.items() if k not in read}
    known = {name for one in made for name in one}
    return [{**{k: v for k, v in rest.items() if k not in known}, **_present(one)} for one in made]


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}
