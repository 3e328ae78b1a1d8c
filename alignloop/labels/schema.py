"""Tables of the label store, the same on SQLite and PostgreSQL.

Judgements and the audit log are append-only, held by triggers: a change of mind is a new row that
supersedes the old one. `assignments.current_id` points at the row that counts. Times are seconds
since 1970 (UTC). Answers are stored in the item's own order, never in the order shown.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)

SCHEMA_VERSION = 3

metadata = MetaData()

meta = Table(
    "meta", metadata, Column("key", String(64), primary_key=True), Column("value", Text, nullable=False)
)

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("task", String(16), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("guideline_version", Integer, nullable=False, default=1),
    # Raised with every change to items or settings, so that a running server notices other processes.
    Column("revision", Integer, nullable=False, default=0),
    Column("created", Float, nullable=False),
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("key", String(64), nullable=False),
    Column("prompt", JSON, nullable=False),
    Column("answers", JSON, nullable=False),
    Column("gold", JSON(none_as_null=True)),
    # Reward-model scores [answer] or [member][answer] by which the item was chosen.
    Column("scores", JSON(none_as_null=True)),
    Column("arm", String(32), nullable=False, default="random"),
    Column("priority", Float, nullable=False, default=0.0),
    # Uniform in [0, 1), from the content: below `overlap_share` several annotators see the item.
    Column("lot", Float, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("withdrawn", Float),
    Column("created", Float, nullable=False),
    UniqueConstraint("project_id", "key"),
)

annotators = Table(
    "annotators",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id")),
    Column("name", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("token_hash", String(64), nullable=False, unique=True),
    # Raised by a new invitation link, which ends every session opened with the old one.
    Column("epoch", Integer, nullable=False, default=0),
    Column("language", String(8), nullable=False, default="en"),
    Column("created", Float, nullable=False),
    Column("removed", Float),
    # First row of somebody with one link to every project; the rows of that person share it.
    Column("person", Integer),
    UniqueConstraint("project_id", "name"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("round", Integer, nullable=False, default=0),
    Column("seq", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("display_order", JSON, nullable=False),
    Column("state", String(16), nullable=False, default="open"),
    Column("opened", Float, nullable=False),
    Column("current_id", Integer),
    UniqueConstraint("annotator_id", "item_id", "round"),
    Index("assignments_by_annotator", "annotator_id", "state", "seq"),
    Index("assignments_by_current", "annotator_id", "current_id"),
    Index("assignments_by_project", "project_id", "state"),
    Index("assignments_by_item", "item_id"),
)

judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False),
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("assignment_id", ForeignKey("assignments.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("supersedes", ForeignKey("judgements.id")),
    Column("action", String(16), nullable=False),
    Column("answer", JSON(none_as_null=True)),
    Column("skip_reason", Text),
    Column("flagged", Boolean, nullable=False, default=False),
    Column("note", Text, nullable=False, default=""),
    Column("display_order", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("guideline_version", Integer, nullable=False),
    Column("created", Float, nullable=False),
    UniqueConstraint("assignment_id", "version"),
    Index("judgements_by_project", "project_id", "id"),
    Index("judgements_by_annotator", "annotator_id", "id"),
)

drafts = Table(
    "drafts",
    metadata,
    Column("assignment_id", ForeignKey("assignments.id"), primary_key=True),
    Column("body", JSON, nullable=False),
    Column("updated", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created", Float, nullable=False),
    Column("project_id", Integer),
    Column("actor", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("details", JSON, nullable=False),
    Index("audit_by_project", "project_id", "id"),
)

models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("path", Text, nullable=False),
    # Every judgement the model was made from, so that it can be traced and remade.
    Column("judgement_ids", JSON, nullable=False),
    Column("accuracy", Float),
    Column("created", Float, nullable=False),
)

APPEND_ONLY = ("judgements", "audit")

_POSTGRES_FUNCTION = """CREATE OR REPLACE FUNCTION alignloop_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"""


def append_only_statements(dialect: str, table: str) -> list[str]:
    """SQL that makes UPDATE and DELETE on `table` fail, for dialect `sqlite` or `postgresql`."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        _POSTGRES_FUNCTION,
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION alignloop_append_only()",
    ]


def _attach_triggers() -> None:
    for name in APPEND_ONLY:
        for dialect in ("sqlite", "postgresql"):
            for statement in append_only_statements(dialect, name):
                event.listen(
                    metadata.tables[name], "after_create", DDL(statement).execute_if(dialect=dialect)
                )


_attach_triggers()
