"""Instructions a program can check: one small pure function per kind, in the table `CONSTRAINTS`.

A constraint is a mapping such as `{"kind": "max_words", "limit": 30}`; the function named by `kind`
gets the completion and the remaining entries as keyword arguments.

A *word* is a run of non-space characters with at least one letter or digit (so a Korean eojeol is one
word); every Han or Kana character counts as a word of its own. Text is compared after NFC normalisation.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from alignloop.errors import DataError
from alignloop.foreign import loads

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "「": "」", "『": "』", "'": "'", "‘": "’"}
_CLOSING = "\"'”’»」』)]*_"
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|e\.g|i\.e|a\.m|p\.m|u\.s|no|fig|approx|[a-z]|\d+)\.$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(rf"[.!?…。！？]+[{re.escape(_CLOSING)}]*(?=\s|$)|[。！？]+")

_SCRIPTS = {
    "english": r"[A-Za-z]",
    "spanish": r"[A-Za-zÀ-ÿ]",
    "french": r"[A-Za-zÀ-ÿŒœ]",
    "german": r"[A-Za-zÀ-ÿẞ]",
    "korean": r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]",
    "japanese": r"[\u3040-\u30ff\u4e00-\u9fff]",
    "chinese": r"[\u3400-\u4dbf\u4e00-\u9fff]",
    "russian": r"[\u0400-\u04ff]",
}
_FUNCTION_WORDS = {
    "english": "the of and to in is that it for was on are as with be at by this have from or an they you",
    "spanish": "el la de que y en los del se las por un para con una su al es lo como más o pero sus le son",
    "french": "le la de et les des en un une du est que dans pour qui sur pas au par il avec se ce sont plus",
    "german": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es sind",
}


def words(text: str) -> list[str]:
    """The words of a text as defined above, punctuation attached."""
    spaced = re.sub(f"([{_IDEOGRAPH}])", r" \1 ", unicodedata.normalize("NFC", text))
    return [token for token in spaced.split() if any(c.isalnum() for c in token)]


def bare_words(text: str) -> list[str]:
    """The words of a text, case-folded, without punctuation at their ends."""
    return [re.sub(r"^\W+|\W+$", "", word).casefold() for word in words(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text: ended by . ! ? … (also 。！？) or by a line break.

    Decimals, initials, list numbers and common English abbreviations end no sentence.
    """
    found = []
    for line in unicodedata.normalize("NFC", text).splitlines():
        start = 0
        for end in _SENTENCE_END.finditer(line):
            if not _ABBREVIATION.search(line[start : end.end()]):
                found.append(line[start : end.end()])
                start = end.end()
        found.append(line[start:])
    return [s.strip() for s in found if any(c.isalnum() for c in s)]


def is_answer(completion: str, *, min_distinct_words: int = 5, min_distinct_share: float = 0.5) -> bool:
    """Whether a completion is an answer at all, and not a degenerate text that obeys by saying nothing.

    It needs at least `min_distinct_words` different words, at least `min_distinct_share` of its runs of
    three words must be different (a loop repeats them), and no single word may be more than half of it.
    """
    tokens = [word for word in bare_words(completion) if word]
    if len(set(tokens)) < min_distinct_words:
        return False
    runs = _runs(tokens)
    most_common = max(tokens.count(word) for word in set(tokens))
    return len(set(runs)) >= min_distinct_share * len(runs) and 2 * most_common <= len(tokens)


def _runs(tokens: Sequence[str]) -> list[tuple[str, str, str]]:
    """All runs of three neighbouring words."""
    return list(zip(tokens, tokens[1:], tokens[2:], strict=False))


def echoes(completion: str, prompt: str, *, share: float = 0.5) -> bool:
    """Whether at least `share` of the completion's runs of three words are copied from the prompt."""
    source, runs = set(_runs(bare_words(prompt))), _runs(bare_words(completion))
    return bool(runs) and sum(run in source for run in runs) >= share * len(runs)


def max_words(completion: str, *, limit: int) -> bool:
    """At most `limit` words."""
    return len(words(completion)) <= limit


def min_words(completion: str, *, limit: int) -> bool:
    """At least `limit` words."""
    return len(words(completion)) >= limit


def num_sentences(completion: str, *, count: int) -> bool:
    """Exactly `count` sentences, the last of which is finished (an answer cut off is not)."""
    found = sentences(completion)
    return len(found) == count and _SENTENCE_END.search(found[-1]) is not None


def num_paragraphs(completion: str, *, count: int) -> bool:
    """Exactly `count` paragraphs, separated by empty lines."""
    return len([p for p in re.split(r"\n\s*\n", completion) if words(p)]) == count


def lowercase(completion: str) -> bool:
    """No upper-case letter, and at least one letter that has a case."""
    return any(c.islower() for c in completion) and completion == completion.lower()


def uppercase(completion: str) -> bool:
    """No lower-case letter, and at least one letter that has a case."""
    return any(c.isupper() for c in completion) and not any(c.islower() for c in completion)


def capital_words(completion: str, *, count: int) -> bool:
    """At least `count` words of three letters or more are written in capitals."""
    letters = (re.sub(r"\W|\d", "", word) for word in words(completion))
    return sum(word.isupper() and len(word) >= 3 for word in letters) >= count


def numbered_list(completion: str, *, count: int) -> bool:
    """Lines numbered `1.` to `count.` (or `1)`), each once and in order."""
    numbers = re.findall(r"^\s*\**(\d+)[.)]\**\s+\S", completion, flags=re.MULTILINE)
    return [int(n) for n in numbers] == list(range(1, count + 1))


def bullet_list(completion: str, *, count: int) -> bool:
    """Exactly `count` lines that begin with -, *, + or •."""
    return len(re.findall(r"^\s*[-*+•]\s+\S", completion, flags=re.MULTILINE)) == count


def contains_word(text: str, word: str) -> bool:
    """Whether `word` (or phrase) occurs as a whole, in any case.

    Hangul words may carry a particle after them (사과는 contains 사과); Han and Kana have no word breaks.
    """
    text, word = (unicodedata.normalize("NFC", t).casefold() for t in (text, word))
    left = "" if re.match(f"[{_IDEOGRAPH}]", word) else r"(?<!\w)"
    right = "" if re.search(rf"[{_IDEOGRAPH}\uac00-\ud7a3]$", word) else r"(?!\w)"
    return re.search(left + re.escape(word) + right, text) is not None


def include_words(completion: str, *, words: Sequence[str]) -> bool:
    """Each of the words occurs."""
    return all(contains_word(completion, word) for word in words)


def forbid_words(completion: str, *, words: Sequence[str]) -> bool:
    """None of the words occurs."""
    return not any(contains_word(completion, word) for word in words)


def start_with(completion: str, *, phrase: str) -> bool:
    """The first words are `phrase`, in any case; punctuation before and after it is ignored."""
    expected = bare_words(phrase)
    return bare_words(completion)[: len(expected)] == expected


def end_with(completion: str, *, phrase: str) -> bool:
    """The last words are `phrase`, in any case; punctuation before and after it is ignored."""
    expected = bare_words(phrase)
    return bare_words(completion)[-len(expected) :] == expected


def quoted(completion: str) -> bool:
    """The whole completion stands between one pair of quotation marks."""
    text = completion.strip()
    return len(text) > 2 and _QUOTES.get(text[0]) == text[-1]


def json_object(completion: str, *, keys: Sequence[str]) -> bool:
    """The completion is one JSON object (a ``` fence around it is accepted) with each of `keys`."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)```\s*", completion, flags=re.DOTALL)
    try:
        value = loads(fenced.group(1) if fenced else completion)
    except ValueError:
        return False
    return isinstance(value, dict) and all(key in value for key in keys)


def no_commas(completion: str) -> bool:
    """No comma, Arabic and East Asian ones included."""
    return not re.search("[,，、،]", completion)


def no_digits(completion: str) -> bool:
    """No digit of any script."""
    return not any(c.isdigit() for c in completion)


def exclamation(completion: str, *, count: int) -> bool:
    """At least `count` exclamation marks."""
    return len(re.findall("[!！]", completion)) >= count


def title(completion: str) -> bool:
    """A title in double angular brackets, such as <<How rain forms>>."""
    return re.search(r"<<[^<>\n]*\w[^<>\n]*>>", completion) is not None


def bold(completion: str, *, count: int) -> bool:
    """At least `count` passages in Markdown bold."""
    return len(re.findall(r"\*\*[^*\n]*\w[^*\n]*\*\*", completion)) >= count


def postscript(completion: str) -> bool:
    """The last line that is not empty begins with P.S."""
    lines = [line for line in completion.splitlines() if words(line)]
    return len(lines) > 1 and re.match(r"\W*P\.? ?S\b\.?\W*\w", lines[-1]) is not None


def ends_with_question(completion: str) -> bool:
    """The last sentence ends with a question mark."""
    return completion.rstrip().rstrip(_CLOSING).endswith(("?", "？"))


def language(completion: str, *, language: str) -> bool:
    """At least 70 % of the letters are of the language's script; languages that share the Latin script
    are told apart by which one's commonest function words occur most often."""
    letters = [c for c in unicodedata.normalize("NFC", completion) if c.isalpha()]
    in_script = sum(re.match(_SCRIPTS[language], c) is not None for c in letters)
    if not letters or in_script < 0.7 * len(letters):
        return False
    if language == "japanese":
        return re.search("[\u3040-\u30ff]", completion) is not None
    if language not in _FUNCTION_WORDS:
        return True
    tokens = bare_words(completion)
    hits = {name: sum(t in common.split() for t in tokens) for name, common in _FUNCTION_WORDS.items()}
    return hits[language] > 0 and all(hits[language] > hits[other] for other in hits if other != language)


CONSTRAINTS: dict[str, Callable[..., bool]] = {
    check.__name__: check
    for check in (
        max_words,
        min_words,
        num_sentences,
        num_paragraphs,
        lowercase,
        uppercase,
        capital_words,
        numbered_list,
        bullet_list,
        include_words,
        forbid_words,
        start_with,
        end_with,
        quoted,
        json_object,
        no_commas,
        no_digits,
        exclamation,
        title,
        bold,
        postscript,
        ends_with_question,
        language,
    )
}
"""Constraint kinds by name."""


def satisfied(completion: str, constraint: Mapping[str, object]) -> bool:
    """Whether the completion obeys one constraint.

    Args:
        completion: the answer.
        constraint: `kind` and its arguments.

    Returns:
        True if it does.

    Raises:
        DataError: the kind is unknown, or an argument is missing, unknown or of the wrong type.
    """
    check = checked(constraint)
    return check(completion, **{name: value for name, value in constraint.items() if name != "kind"})


def checked(constraint: Mapping[str, object]) -> Callable[..., bool]:
    """The function of a constraint, after its arguments have been checked against the signature.

    Args:
        constraint: `kind` and its arguments.

    Returns:
        The function named by `kind`.

    Raises:
        DataError: as `satisfied`.
    """
    kind = constraint.get("kind")
    if not isinstance(kind, str) or kind not in CONSTRAINTS:
        raise DataError(f"accepted are {', '.join(CONSTRAINTS)}", field="constraints.kind", value=kind)
    expected = list(inspect.signature(CONSTRAINTS[kind]).parameters)[1:]
    given = {name: value for name, value in constraint.items() if name != "kind"}
    if sorted(given) != sorted(expected):
        wants = f"the arguments {', '.join(expected)}" if expected else "no arguments"
        raise DataError(f"{kind} takes {wants}", field="constraints", value=dict(constraint))
    for name, value in given.items():
        _check_argument(kind, name, value)
    return CONSTRAINTS[kind]


def _check_argument(kind: str, name: str, value: object) -> None:
    """Counts and limits are positive whole numbers, lists hold text, phrases are text."""
    if name in ("limit", "count"):
        valid, wants = (
            isinstance(value, int) and not isinstance(value, bool) and value > 0,
            "a number above 0",
        )
    elif name in ("words", "keys"):
        listed = value if isinstance(value, list | tuple) else ()
        valid = len(listed) > 0 and all(isinstance(item, str) and item.strip() for item in listed)
        wants = "a list of words"
    elif name == "language":
        valid, wants = value in _SCRIPTS, f"one of {', '.join(_SCRIPTS)}"
    else:
        valid, wants = isinstance(value, str) and bool(words(value)), "text"
    if not valid:
        raise DataError(f"{kind} wants {wants}", field=f"constraints.{name}", value=value)
