"""Rubrics: what a judge is asked, in which words, and by which labels it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alignloop.errors import ConfigError
from alignloop.judges.prompt_files import LANGUAGES, TextNode, fill, harmless, language_of, read_texts
from alignloop.records import Conversation, Message, written
from alignloop.runs.hashing import digest

SHIPPED = Path(__file__).parent / "rubrics"
_WORDS = {"en": ("User", "Assistant", "System"), "ko": ("사용자", "도우미", "시스템")}


@dataclass(frozen=True, slots=True)
class RubricTexts:
    """The texts of one language.

    Attributes:
        system: who the judge is.
        criteria: by what is judged; a principle of a constitution may stand in its place.
        compare: question about two answers, with {criteria}, {conversation}, {first} and {second}.
        grade: question about one answer, with {criteria}, {conversation} and {answer}.
        think: asks for the reasons first.
        decide: asks for the label of the better answer alone.
        decide_grade: asks for the grade alone.
    """

    system: str
    criteria: str
    compare: str
    grade: str
    think: str
    decide: str
    decide_grade: str


_FIELDS = ("system", "criteria", "compare", "grade", "think", "decide", "decide_grade")
_PLACES = {
    "compare": ("criteria", "conversation", "first", "second"),
    "grade": ("criteria", "conversation", "answer"),
}


@dataclass(frozen=True, slots=True)
class Rubric:
    """A rubric.

    Attributes:
        name: as in its file.
        labels: of the first answer, the second one and, as a third, a tie where the rubric knows one.
        grades: labels of the grades, the worst first.
        wordings: by language.
    """

    name: str
    labels: tuple[str, ...]
    grades: tuple[str, ...]
    wordings: Mapping[str, RubricTexts]

    @property
    def identity(self) -> str:
        """Changes with every change of a text."""
        words = {lang: [getattr(w, f) for f in _FIELDS] for lang, w in self.wordings.items()}
        return digest([self.labels, self.grades, words])

    def wording(self, prompt: Conversation, language: str) -> RubricTexts:
        """The texts in `language`; `auto` takes the prompt's."""
        if language == "auto":
            language = language_of(" ".join(m.content for m in prompt), self.wordings)
        if language not in self.wordings:
            raise ConfigError(f"rubric '{self.name}' has no texts in '{language}'")
        return self.wordings[language]

    def question(
        self, prompt: Conversation, first: str, second: str, *, language: str = "auto", criteria: str = ""
    ) -> Conversation:
        """System and user message that show two answers, before the judge is asked to decide."""
        words = self.wording(prompt, language)
        values = {
            "criteria": criteria or words.criteria,
            "conversation": _shown(prompt, self._language(words)),
            "first": harmless(first),
            "second": harmless(second),
        }
        return (Message("system", words.system), Message("user", fill(words.compare, values)))

    def grading(
        self, prompt: Conversation, answer: str, *, language: str = "auto", criteria: str = ""
    ) -> Conversation:
        """The whole question that asks for one answer's grade."""
        words = self.wording(prompt, language)
        shown = _shown(prompt, self._language(words))
        values = {"criteria": criteria or words.criteria, "conversation": shown, "answer": harmless(answer)}
        asked = f"{fill(words.grade, values)}\n\n{words.decide_grade}"
        return (Message("system", words.system), Message("user", asked))

    def _language(self, words: RubricTexts) -> str:
        return next(lang for lang, found in self.wordings.items() if found is words)


def _shown(prompt: Conversation, language: str) -> str:
    """A conversation as text; a single question stands alone."""
    if len(prompt) == 1:
        return harmless(prompt[0].content)
    user, assistant, system = _WORDS.get(language, _WORDS["en"])
    names = {"user": user, "assistant": assistant, "system": system}
    return "\n\n".join(f"{names.get(m.role, m.role)}: {harmless(written(m))}" for m in prompt)


def load_rubric(name: str) -> Rubric:
    """A rubric by its path, or by the name of one that comes with the package.

    Raises:
        ConfigError: no such file, or a fault in it, with its line.
    """
    shipped = SHIPPED / f"{name}.yaml"
    path = shipped if shipped.is_file() and shipped.parent == SHIPPED else Path(name)
    top = read_texts(path).fields(needed=("name", "labels", "grades", "languages"))
    labels = tuple(item.text() for item in top["labels"].list())
    grades = tuple(item.text() for item in top["grades"].list())
    if len(labels) not in (2, 3) or len(set(labels)) != len(labels):
        raise ConfigError(f"{top['labels'].where}: labels are two different texts, and a third for a tie")
    if len(grades) < 2 or len(set(grades)) != len(grades):
        raise ConfigError(f"{top['grades'].where}: grades are two or more different texts, the worst first")
    wordings = {lang: _wording(node) for lang, node in _languages(top["languages"]).items()}
    return Rubric(top["name"].text(), labels, grades, wordings)


def _languages(node: TextNode) -> Mapping[str, TextNode]:
    found = node.fields(needed=(), optional=LANGUAGES)
    if not found:
        raise ConfigError(f"{node.where}: texts in at least one of {', '.join(LANGUAGES)} are needed")
    return found


def _wording(node: TextNode) -> RubricTexts:
    entries = node.fields(needed=_FIELDS)
    texts = {
        name: entries[name].text(
            places=_PLACES.get(name, ()), needed=[p for p in _PLACES.get(name, ()) if p != "criteria"]
        )
        for name in _FIELDS
    }
    return RubricTexts(**texts)
