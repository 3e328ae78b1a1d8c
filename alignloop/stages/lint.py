"""Silent traps in tokenized data, each with a code: nothing crashes, the model just learns the wrong thing.

The checks are pure functions of tokenized groups. The training stages call them before the first step
(errors stop the run, warnings are told), `alignloop doctor RECIPE` without training. docs/lint.md lists
all codes; the traps in settings are in `lint_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol

import numpy as np

from alignloop.data.packing import Completion, Group
from alignloop.errors import ConfigError

_LOOKED_AT = 200
_NEAR = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap that was found.

    Attributes:
        code: stable key such as `AL101`, explained in docs/lint.md.
        severity: an error stops a training before its first step, a warning does not.
        sentence: what is wrong, with numbers.
        fix: what to do about it.
    """

    code: str
    severity: Literal["error", "warning"]
    sentence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code} {self.severity}: {self.sentence}; {self.fix}"


def enforce(findings: Sequence[Finding], tell: Callable[[str], object]) -> None:
    """Hand each warning to `tell`, then stop if there is an error.

    Raises:
        ConfigError: the errors, all at once.
    """
    for finding in findings:
        if finding.severity == "warning":
            tell(f"{finding.code}: {finding.sentence}; {finding.fix}")
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigError(errors)


class LintTokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """`bos`: the BOS or None; `ends`: token sequences of which any ends a completion."""

    bos: int | None
    ends: tuple[tuple[int, ...], ...]

    def end_length(self, ids: np.ndarray) -> int:
        """How many of the last tokens are an end of turn; 0 if the completion does not end."""
        return max((len(end) for end in self.ends if tuple(ids[-len(end) :].tolist()) == end), default=0)


def special_tokens(tokenizer: LintTokenizer, end_of_turn: str) -> SpecialTokens:
    """The tokenizer's BOS, and its EOS and the template's end of turn as ends of a completion."""
    ends = {tuple(tokenizer.encode(end_of_turn, add_special_tokens=False))} if end_of_turn else set()
    if tokenizer.eos_token_id is not None:
        ends.add((tokenizer.eos_token_id,))
    return SpecialTokens(tokenizer.bos_token_id, tuple(sorted(end for end in ends if end)))


def lint_groups(
    groups: Sequence[Group], tokens: SpecialTokens, *, held_out: Sequence[Group] = ()
) -> list[Finding]:
    """Every trap that tokenized training data can hold.

    Args:
        groups: training data, as it goes into the loss.
        tokens: what begins a sequence and what ends a completion.
        held_out: groups on which the model is evaluated.

    Returns:
        At most one finding for each code, with the number of rows.
    """
    checks = (_double_bos, _masked_end, _no_end, _masked_labels, _removed, _cut_chosen, _equal, _empty)
    found = [check(groups, tokens) for check in checks]
    found += [_contradictory(groups), _one_class(groups), _leaked(groups, held_out)]
    return [finding for finding in found if finding is not None]


def _own(group: Group) -> list[Completion]:
    """The group's own completions: KTO's mismatched ones belong to another row."""
    other = np.asarray(group.values.get("mismatched", [False] * len(group.completions)), dtype=bool)
    return [c for c, not_its_own in zip(group.completions, other, strict=True) if not not_its_own]


def _chosen(group: Group) -> list[Completion]:
    """The completions that the model is to prefer or to imitate."""
    own = _own(group)
    if "ranks" in group.values:
        ranks = np.asarray(group.values["ranks"])
        return [c for c, rank in zip(own, ranks, strict=True) if rank == ranks.min()]
    if "desirable" in group.values:
        return own if np.asarray(group.values["desirable"])[0] else []
    return own if "ratings" in group.values else own[:1]


def _count(groups: Sequence[Group], is_bad: Callable[[Group], bool]) -> tuple[int, str]:
    """How many groups are bad, and that in words with the first row's number."""
    bad = [group.index for group in groups if is_bad(group)]
    return len(bad), f"{len(bad)} of {len(groups)} rows (first: row {bad[0] + 1})" if bad else ""


def _double_bos(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    if tokens.bos is None:
        return None
    twice = [tokens.bos, tokens.bos]

    def starts_twice(group: Group) -> bool:
        first = group.completions[0].ids[:2].tolist() if group.completions else []
        return [*group.prompt_ids[:2].tolist(), *first][:2] == twice

    number, words = _count(groups, starts_twice)
    fix = "remove the BOS from the texts or from the chat template: the encoder puts one in front itself"
    return Finding("AL101", "error", f"{words} begin with two BOS tokens", fix) if number else None


def _masked_end(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    number, words = _count(
        groups,
        lambda g: any(tokens.end_length(c.ids) and c.mask.any() and not c.mask[-1] for c in _own(g)),
    )
    sentence = f"in {words} the end of the completion is not counted in the loss, so it is not learned"
    fix = "usual cause: padding has the id of EOS and is masked by id; mask by length, or use another pad"
    return Finding("AL102", "error", sentence, fix) if number else None


def _no_end(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    if not groups or any(tokens.end_length(c.ids) for g in groups for c in _own(g)):
        return None
    sentence = "no completion ends with an EOS or end of turn, so the model learns never to stop"
    return Finding("AL103", "error", sentence, "use a chat template with an end of turn, or raise max_length")


def _masked_labels(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    def counts(group: Group) -> bool:
        # Nothing predicts the first token of a row without a prompt.
        first = 0 if len(group.prompt_ids) else 1
        return any(c.mask[first:].any() for c in _own(group))

    number, words = _count(groups, lambda g: not counts(g))
    severity = "error" if number == len(groups) else "warning"
    sentence = f"in {words} no token counts in the loss, nothing is learned from them"
    return (
        Finding("AL105", severity, sentence, "check the completion mask and max_length") if number else None
    )


def _removed(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    number, words = _count(groups, lambda g: any(len(c.ids) == 0 for c in _own(g)))
    sentence = f"in {words} truncation left nothing of a completion"
    return Finding("AL106", "error", sentence, "raise max_length or use overlength: drop") if number else None


def _cut_chosen(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    if not any(tokens.end_length(c.ids) for g in groups for c in _own(g)):
        return None  # that is AL103

    def is_cut(group: Group) -> bool:
        # A long document is cut into pieces on purpose; it has no prompt.
        cut = any(len(c.ids) and not tokens.end_length(c.ids) for c in _chosen(group))
        return cut and len(group.prompt_ids) > 0

    number, words = _count(groups, is_cut)
    sentence = f"in {words} a chosen completion has lost its end, which teaches the model not to stop"
    return (
        Finding("AL107", "warning", sentence, "raise max_length or use overlength: drop") if number else None
    )


def _equal(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    def has_equal(group: Group) -> bool:
        ranks = group.values.get("ranks", range(len(group.completions)))
        if "probability" not in group.values and "ranks" not in group.values:
            return False
        ranked = zip(group.completions, np.asarray(ranks).tolist(), strict=True)
        return any(a != b and np.array_equal(x.ids, y.ids) for (x, a), (y, b) in combinations(ranked, 2))

    number, words = _count(groups, has_equal)
    severity = "error" if number == len(groups) else "warning"
    sentence = f"in {words} the chosen and the rejected completion are equal, which gives no gradient"
    fix = "remove these rows, or raise max_length if truncation made them equal"
    return Finding("AL108", severity, sentence, fix) if number else None


def _empty(groups: Sequence[Group], tokens: SpecialTokens) -> Finding | None:
    def is_empty(group: Group) -> bool:
        return any(0 < len(c.ids) == tokens.end_length(c.ids) for c in _own(group))

    number, words = _count(groups, is_empty)
    severity = "error" if number == len(groups) else "warning"
    sentence = f"in {words} a completion is empty but for its end"
    return Finding("AL109", severity, sentence, "remove these rows or fill them") if number else None


def _judgements(group: Group) -> Iterator[tuple[tuple[bytes, bytes, bytes], tuple[bytes, bytes, bytes]]]:
    """What a row says of its texts, and what would contradict it."""
    prompt = group.prompt_ids.tobytes()
    texts = [c.ids.tobytes() for c in group.completions]
    if group.values.get("probability", 0.5) != 0.5:
        better = float(np.asarray(group.values["probability"])) > 0.5
        yes, no = (prompt, texts[0], texts[1]), (prompt, texts[1], texts[0])
        yield (yes, no) if better else (no, yes)
    elif "desirable" in group.values:
        good, bad = (prompt, texts[0], b"good"), (prompt, texts[0], b"bad")
        yield (good, bad) if np.asarray(group.values["desirable"])[0] else (bad, good)


def _contradictory(groups: Sequence[Group]) -> Finding | None:
    said = {said for group in groups for said, _ in _judgements(group)}
    number, words = _count(groups, lambda g: any(no in said and no != yes for yes, no in _judgements(g)))
    sentence = f"{words} contradict another row: the same texts, judged the other way round"
    fix = "keep one of each, or give `probability` for pairs that annotators disagree on"
    return Finding("AL110", "warning", sentence, fix) if number else None


def _one_class(groups: Sequence[Group]) -> Finding | None:
    labels = {bool(np.asarray(g.values["desirable"])[0]) for g in groups if "desirable" in g.values}
    if len(labels) != 1:
        return None
    sentence = f"all rows are {'desirable' if labels == {True} else 'undesirable'}; labels need both classes"
    return Finding(
        "AL111", "error", sentence, "add rows of the other class, or use sft on the desirable ones"
    )


def _leaked(groups: Sequence[Group], held_out: Sequence[Group]) -> Finding | None:
    known = {group.question for group in groups}
    number, words = _count(held_out, lambda g: g.question in known)
    sentence = f"{words} of the evaluation are in the training data, so its numbers are too good"
    return Finding("AL112", "warning", sentence, "remove them, or use eval_fraction") if number else None


def lint_boundary(groups: Sequence[Group], tokenizer: LintTokenizer) -> list[Finding]:
    """Whether the tokenizer, given the whole text, would merge a prompt's end with its completion.

    The two are encoded separately here, in training and in use, so they always agree with each other;
    but another engine that encodes the whole text sees other tokens at the boundary. Looks at the
    tokens around the boundary of the first rows; rows whose tokens do not survive decoding are left out.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def merges(group: Group) -> bool:
        before, after = group.prompt_ids[-_NEAR:].tolist(), group.completions[0].ids[:_NEAR].tolist()
        texts = tokenizer.decode(before), tokenizer.decode(after)
        if not before or (encode(texts[0]), encode(texts[1])) != (before, after):
            return False
        return encode(texts[0] + texts[1]) != [*before, *after]

    number, words = _count(groups[:_LOOKED_AT], merges)
    sentence = f"in {words} the tokenizer would merge the end of the prompt with the completion"
    fix = "end the prompt with a line break or a special token, not with a space or within a word"
    return [Finding("AL104", "warning", sentence, fix)] if number else []
