"""Rewards by their shortest names: a verifier, a penalty, a function of the user, or a reward model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

from alignloop.user_functions import REFERENCE

VerifierName = Literal["constraints", "math", "regex", "json_schema", "exact"]
PenaltyName = Literal["length", "repetition", "overlong"]


def named_reward(text: str) -> dict[str, Any]:
    """The part of `rewards` that a name means.

    Args:
        text: a verifier's or penalty's name, `module:function`, `file.py:function`, or a reward model's path.

    Returns:
        The part, with one key.
    """
    if text in get_args(VerifierName):
        return {"verifier": text}
    if text in get_args(PenaltyName):
        return {"penalty": text}
    if re.fullmatch(REFERENCE, text) and not Path(text).exists():
        return {"function": text}
    return {"model": text}
