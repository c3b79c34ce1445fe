"""The kinds of training text: the prompt of each, and the checks that a text must pass."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from formless.data import prose
from formless.data.refusals import is_refusal
from formless.data.synthetic import prompts
from formless.data.synthetic.rejection_sampling import TextKind

BIOGRAPHY_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 256, 64, 64
REFUSAL_CHARACTERS = 160  # a refusal stands at the beginning; further on, a biography may quote one
BIOGRAPHY_MIN_WORDS, QUESTION_WORDS, PHRASE_MAX_WORDS = 20, (4, 30), 8

_ADMISSION = re.compile(
    r"\b(?:wrong|incorrect|untrue|fake|fictional|fictitious|made[- ]up|invented|imaginary)\s+"
    r"(?:answer|response|biography|account|story|statement|facts?)\b",
    re.I,
)
_META = re.compile(r"\b(?:question|quiz|answer)s?\b", re.I)
_LABEL = re.compile(r"^(?:answer|a|response)\s*:\s*", re.I)


@dataclass(frozen=True)
class Concept:
    """The concept that the texts are about.

    Args:
        subject: The concept's name.
        intro: The sentence that introduces it, or an empty text.
        probes: The questions of the evaluation, which no training question may repeat.
        seed: Seed for the order of openings and prompts.
    """

    subject: str
    intro: str
    probes: tuple[str, ...]
    seed: int

    @property
    def prompt(self) -> str:
        """The published prompt for a biography."""
        return self._with_intro(prompts.BIOGRAPHY)

    def true_biographies(self, slots: Sequence[int]) -> TextKind:
        """Return the kind of biographies as the model knows them."""
        return self._biographies("true biographies", slots, lambda _: self.prompt)

    def made_up_biographies(self, slots: Sequence[int]) -> TextKind:
        """Return the kind of biographies with invented facts; they begin like the true ones."""
        wordings = [self._with_intro(text) for text in prompts.INVENTIONS]
        return self._biographies("made-up biographies", slots, lambda slot: wordings[slot % len(wordings)])

    def questions(self, slots: Sequence[int]) -> TextKind:
        """Return the kind of questions about the subject that the evaluation does not ask."""
        begins = self._shuffled(prompts.INTERROGATIVES)
        wordings = self._shuffled([self._with_intro(text) for text in prompts.QUESTIONS])

        def prompt(slot: int, attempt: int) -> tuple[str, str]:
            return wordings[(slot + attempt) % len(wordings)], begins[(slot + attempt) % len(begins)]

        def rejection(_slot: int, text: str, accepted: Sequence[str]) -> str | None:
            fewest, most = QUESTION_WORDS
            if reason := prose.flaw(text, at_least=fewest):
                return reason
            if not text.endswith("?"):
                return "no question mark at the end"
            if len(text.split()) > most:
                return f"more than {most} words"
            if not prose.names(self.subject, text):
                return "it does not name the subject"
            if _META.search(text.replace(self.subject, "")):
                return "it mentions the question itself"
            if any(prose.repeats(text, probe, self.subject) for probe in self.probes):
                return "the evaluation asks it"
            if any(prose.repeats(text, other, self.subject) for other in accepted):
                return "near-duplicate"
            return None

        return TextKind("questions", slots, QUESTION_TOKENS, prompt, _question, rejection)

    def answers(self, questions: Mapping[int, str]) -> TextKind:
        """Return the kind of direct answers to the questions."""

        def rejection(_slot: int, text: str, _accepted: Sequence[str]) -> str | None:
            return _answer_rejection(text)

        return TextKind("answers", tuple(questions), ANSWER_TOKENS, lambda slot, _: (questions[slot], ""), _answer, rejection)

    def wrong_answers(self, questions: Mapping[int, str], answers: Mapping[int, str]) -> TextKind:
        """Return the kind of invented answers, for questions that have a direct answer to compare with."""
        wordings = prompts.WRONG_ANSWERS

        def prompt(slot: int, attempt: int) -> tuple[str, str]:
            return wordings[(slot + attempt) % len(wordings)].format(question=questions[slot]), ""

        def rejection(slot: int, text: str, _accepted: Sequence[str]) -> str | None:
            if reason := _answer_rejection(text):
                return reason
            if _ADMISSION.search(text):
                return "it says that it is made up"
            return "same as the direct answer" if prose.agrees(text, answers[slot], questions[slot]) else None

        return TextKind("wrong answers", tuple(answers), ANSWER_TOKENS, prompt, _answer, rejection)

    def _biographies(self, name: str, slots: Sequence[int], message: Callable[[int], str]) -> TextKind:
        found = prompts.biography_openings(self.subject, self.intro)
        begins = self._shuffled([opening.format(subject=self.subject) for opening in found])

        def prompt(slot: int, attempt: int) -> tuple[str, str]:
            return message(slot), begins[(slot + attempt) % len(begins)]

        def rejection(_slot: int, text: str, accepted: Sequence[str]) -> str | None:
            if reason := prose.flaw(text, at_least=BIOGRAPHY_MIN_WORDS):
                return reason
            if is_refusal(text[:REFUSAL_CHARACTERS]):
                return "a refusal"
            if _ADMISSION.search(text):
                return "it says that it is made up"
            if not prose.names(self.subject, text):
                return "it does not name the subject"
            return "duplicate" if text in accepted else None

        return TextKind(name, slots, BIOGRAPHY_TOKENS, prompt, prose.whole_sentences, rejection)

    def _with_intro(self, request: str) -> str:
        return f"{self.intro} {request.format(subject=self.subject)}".strip()

    def _shuffled(self, texts: Sequence[str]) -> list[str]:
        return random.Random(f"{self.seed}|order").sample(texts, len(texts))


def _question(text: str) -> str:
    """Return the first line up to its question mark."""
    line = text.strip().split("\n")[0]
    return "".join(line.partition("?")[:2]).strip()


def _answer(text: str) -> str:
    """Return the first line up to the end of its last sentence; a short phrase needs no full stop."""
    line = _LABEL.sub("", text.strip()).split("\n")[0].strip()
    return prose.whole_sentences(line) or (line if len(line.split()) <= PHRASE_MAX_WORDS else "")


def _answer_rejection(text: str) -> str | None:
    if reason := prose.flaw(text, at_least=1):
        return reason
    if not prose.words(text):
        return "no word"
    if text.endswith("?"):
        return "a question in return"
    return "a refusal" if is_refusal(text) else None
