"""Rewards that a program can check: constraints, numbers, patterns, schemas, exact answers.

Every verifier in `VERIFIERS` maps (completion, prompt) to a reward between 0 and 1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import regex

from alignloop.errors import DataError, UserError
from alignloop.foreign import loads
from alignloop.records import Prompt
from alignloop.rl.constraints import checked, echoes, is_answer, satisfied
from alignloop.rl.math_answers import check_reference, same_answer


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


def math_reward(completion: str, answer: str) -> float:
    """1 if the completion's final answer equals the reference's, else 0; the rules are `rl.math_answers`'.

    Args:
        completion: the model's solution.
        answer: the reference; read by the same rules as the completion.

    Returns:
        Reward, 0 or 1; 0 for a reference that `check_reference` refuses.
    """
    return float(same_answer(completion, answer))


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
        parsed = loads(schema) if isinstance(schema, str) else dict(schema)
        validator = validator_for(parsed)
        validator.check_schema(parsed)
    except (ValueError, jsonschema.SchemaError) as error:
        raise DataError(f"not a JSON schema: {error}", field="answer", value=schema) from error
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)```\s*", completion, flags=re.DOTALL)
    try:
        value = loads(fenced.group(1) if fenced else completion)
    except ValueError:
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
    if verifier == "math":
        check_reference(_answer(prompt))
    elif verifier == "constraints":
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
