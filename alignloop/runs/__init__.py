"""Run folders: the only interface between stages."""

from alignloop.runs.code import code_of
from alignloop.runs.folder import Run, Status
from alignloop.runs.hashing import (
    RUN_FILE,
    Input,
    Parent,
    config_sha256,
    find_inputs,
    fingerprint,
    work_sha256,
)
from alignloop.runs.lineage import find_run, find_runs, lineage
from alignloop.runs.manage import children, delete_run, set_tags, tags
from alignloop.runs.ownership import FolderTaken, differences

__all__ = [
    "FolderTaken",
    "Input",
    "Parent",
    "RUN_FILE",
    "Run",
    "Status",
    "children",
    "code_of",
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
]
