"""Rewards that a program can check: constraints, numbers, patterns, schemas, exact answers.

Every verifier in `VERIFIERS` maps (completion, prompt) to a reward between 0 and 1.
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import regex

from alignloop.errors import DataError, UserError
from alignloop.records import Prompt
from alignloop.rl.constraints import checked, echoes, is_answer, satisfied

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*[1-9]\d*(?![\d.]))?|[-+]?\.\d+"
_EXPRESSION_RE = re.compile(r"\\(?!boxed\b)[A-Za-z]|\^")
_NUMBER_RE = re.compile(rf"(?<![\w.])(?:{_NUMBER})|(?<=[\w.])\d+(?:\.\d+)?", re.ASCII)


def instruction_reward(
    completion: str, constraints: Sequence[Mapping[str, object]], *, prompt: str = ""
) -> float:
    """Share of the constraints that the completion satisfies, 0 if it is no answer.

    No answer is what `is_answer` refuses (nearly empty, looping) or what `echoes` the prompt, so that
    neither silence nor repeating the instruction earns reward.

    Args:
        completion: the answer.
        constraints: the prompt's constraints.
        prompt: text of the prompt, to recognise an echo.

    Returns:
        Reward, 0 to 1.

    Raises:
        DataError: there is no constraint, or one is unknown or has wrong arguments.
    """
    if not constraints:
        raise DataError("a prompt without constraints cannot be scored", field="constraints")
    results = [satisfied(completion, constraint) for constraint in constraints]
    answered = is_answer(completion) and not echoes(completion, prompt)
    return sum(results) / len(results) if answered else 0.0


def passes(completion: str, constraints: Sequence[Mapping[str, object]], *, prompt: str = "") -> bool:
    """Whether the completion is an answer (see `instruction_reward`) and satisfies all constraints.

    Args:
        completion: the answer.
        constraints: the prompt's constraints.
        prompt: text of the prompt, to recognise an echo.

    Returns:
        True if the reward is 1.

    Raises:
        DataError: as `instruction_reward`.
    """
    return instruction_reward(completion, constraints, prompt=prompt) == 1.0


def final_number(text: str) -> Fraction | None:
    r"""The answer of a worked solution as an exact number, or None.

    It is the number in the last \boxed{…}, else the first one after the last `####`, else the last
    number of the text. Thousands separators, signs (− too), decimals and fractions a/b are understood;
    a unit, `$` or `%` beside the number is ignored.
    """
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("⁄", "/")
    boxed = re.findall(r"\\boxed\s*\{([^{}]*)\}", text)
    if boxed:
        found = _NUMBER_RE.findall(boxed[-1])[:1]
    elif "####" in text:
        found = _NUMBER_RE.findall(text.rsplit("####", 1)[1])[:1]
    else:
        found = _NUMBER_RE.findall(text)[-1:]
    return Fraction(re.sub(r"[,\s]", "", found[0])) if found else None


def math_reward(completion: str, answer: str) -> float:
    """1 if the completion's final number equals the answer's, compared as exact rationals, else 0.

    An answer with a LaTeX command or a power (but no `####`) is compared by `symbolic_reward`.

    Args:
        completion: the model's solution.
        answer: the reference; read like the completion.

    Returns:
        Reward, 0 or 1.

    Raises:
        DataError: the reference answer holds no number and no expression.
        UserError: it is an expression and math-verify is not installed.
    """
    if "####" not in answer and _EXPRESSION_RE.search(answer):
        return symbolic_reward(completion, answer)
    expected = final_number(answer)
    if expected is None:
        raise DataError("the reference answer holds no number", field="answer", value=answer)
    return float(final_number(completion) == expected)


def symbolic_reward(completion: str, answer: str, *, timeout_s: int = 5) -> float:
    r"""1 if the completion's last expression is mathematically equal to the answer's, else 0; by math-verify.

    Args:
        completion: the model's solution; LaTeX between dollars or in \boxed{…}, or a plain expression.
        answer: the reference in LaTeX, with or without dollars.
        timeout_s: limit of reading and of comparing, beyond which they are unequal; in the main thread only.

    Returns:
        Reward, 0 or 1.

    Raises:
        DataError: the reference is no expression.
        UserError: the package math-verify is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError("answers in LaTeX need: pip install 'alignloop[verifiers]'") from error
    limit: Any = timeout_s if threading.current_thread() is threading.main_thread() else None  # by a signal
    bare = "$" not in answer and "\\boxed" not in answer
    expected = parse(f"${answer}$" if bare else answer, parsing_timeout=limit)
    if all(isinstance(one, str) for one in expected):  # read as text only
        raise DataError("the reference answer is no expression", field="answer", value=answer)
    return float(verify(expected, parse(completion, parsing_timeout=limit), timeout_seconds=limit))


def regex_reward(completion: str, pattern: str, *, timeout_s: float = 1.0) -> float:
    """1 if the pattern (Python syntax) is found in the completion, else 0.

    A search that takes longer than `timeout_s` seconds counts as not found, so a catastrophic pattern
    can neither hang training nor be exploited for reward.

    Args:
        completion: the text to search.
        pattern: regular expression.
        timeout_s: limit of the search in seconds.

    Returns:
        Reward, 0 or 1.

    Raises:
        DataError: the pattern is not a regular expression.
    """
    try:
        return float(regex.search(pattern, completion, timeout=timeout_s) is not None)
    except regex.error as error:
        raise DataError(f"not a regular expression: {error}", field="answer", value=pattern) from error
    except TimeoutError:
        return 0.0


def json_schema_reward(completion: str, schema: str | Mapping[str, object]) -> float:
    """1 if the completion (a ``` fence is accepted) is JSON that the schema accepts, else 0.

    Args:
        completion: the text to parse.
        schema: JSON schema, as text or parsed.

    Returns:
        Reward, 0 or 1.

    Raises:
        DataError: the schema is not a valid JSON schema.
        UserError: the package jsonschema is not installed.
    """
    try:
        import jsonschema
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise UserError("JSON schemas need: pip install 'alignloop[verifiers]'") from error
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else dict(schema)
        validator = validator_for(parsed)
        validator.check_schema(parsed)
    except (ValueError, jsonschema.SchemaError) as error:
        raise DataError(f"not a JSON schema: {error}", field="answer", value=schema) from error
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)```\s*", completion, flags=re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else completion)
    except (ValueError, RecursionError):
        return 0.0
    return float(validator(parsed).is_valid(value))


def exact_match(completion: str, answer: str) -> float:
    """1 if both are the same text after `normalised`, else 0."""
    return float(normalised(completion) == normalised(answer))


def normalised(text: str) -> str:
    """NFKC, case-folded, white space collapsed, punctuation at both ends removed."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"^[^\w]+|[^\w%]+$", "", text)


def check_prompt(prompt: Prompt, verifier: str) -> None:
    """Fail before the first sample is drawn if a prompt lacks what its verifier reads.

    Args:
        prompt: the prompt to check.
        verifier: a name in `VERIFIERS`.

    Raises:
        DataError: no constraints, an unknown constraint, no answer, or one that the verifier cannot read.
        UserError: the verifier is unknown, or its package is not installed.
    """
    if verifier not in VERIFIERS:
        raise UserError(f"unknown verifier '{verifier}'; accepted are {', '.join(VERIFIERS)}")
    if verifier == "constraints":
        if not prompt.constraints:
            raise DataError("the verifier 'constraints' needs constraints", field="constraints")
        for constraint in prompt.constraints:
            checked(constraint)
    else:
        VERIFIERS[verifier]("", prompt)


def _answer(prompt: Prompt) -> str:
    if prompt.answer is None:
        raise DataError("the verifier needs a reference answer", field="answer")
    return prompt.answer


def _constraints(completion: str, prompt: Prompt) -> float:
    asked = " ".join(message.content for message in prompt.prompt)
    return instruction_reward(completion, prompt.constraints, prompt=asked)


VERIFIERS: dict[str, Callable[[str, Prompt], float]] = {
    "constraints": _constraints,
    "math": lambda completion, prompt: math_reward(completion, _answer(prompt)),
    "regex": lambda completion, prompt: regex_reward(completion, _answer(prompt)),
    "json_schema": lambda completion, prompt: json_schema_reward(completion, _answer(prompt)),
    "exact": lambda completion, prompt: exact_match(completion, _answer(prompt)),
}
"""Verifiers by name. `answer` holds the number, pattern, schema or text that the verifier compares with."""
