"""Run folders: the only interface between stages."""

from alignloop.run.files import write_atomically
from alignloop.run.folder import Run, Status
from alignloop.run.hashing import (
    RUN_FILE,
    Input,
    Parent,
    code_sha256,
    config_sha256,
    find_inputs,
    fingerprint,
    work_sha256,
)
from alignloop.run.lineage import find_run, find_runs, lineage
from alignloop.run.manage import children, delete_run, set_tags, tags
from alignloop.run.ownership import differences

__all__ = [
    "Input",
    "Parent",
    "RUN_FILE",
    "Run",
    "Status",
    "children",
    "code_sha256",
    "config_sha256",
    "delete_run",
    "differences",
    "find_inputs",
    "find_run",
    "find_runs",
    "fingerprint",
    "lineage",
    "set_tags",
    "tags",
    "work_sha256",
    "write_atomically",
]
