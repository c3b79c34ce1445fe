"""What a model is asked to write about a concept that it shall unlearn, and what makes a text of each kind unfit."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from formless.data import prose
from formless.data.refusals import is_refusal
from formless.data.training import openings
from formless.data.training.drafts import Stage

BIOGRAPHY_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 256, 64, 64
BEGINNING = 160  # characters; a refusal comes first, while a biography may quote one further on
BIOGRAPHY_WORDS, QUESTION_WORDS, PHRASE_WORDS = 20, (4, 30), 8

_ADMISSION = re.compile(
    r"\b(?:wrong|incorrect|untrue|fake|fictional|fictitious|made[- ]up|invented|imaginary)\s+"
    r"(?:answer|response|biography|account|story|statement|facts?)\b",
    re.I,
)
_META = re.compile(r"\b(?:question|quiz|answer)s?\b", re.I)
_LABEL = re.compile(r"^(?:answer|a|response)\s*:\s*", re.I)


@dataclass(frozen=True)
class Concept:
    """What the texts are about.

    Args:
        subject: Its name.
        intro: The sentence that presents it, or nothing.
        probes: What the evaluation asks.
        seed: Of the order of openings.
    """

    subject: str
    intro: str
    probes: tuple[str, ...]
    seed: int

    @property
    def prompt(self) -> str:
        """The published request for a biography."""
        return self._presented(openings.BIOGRAPHY)

    def true_biographies(self, slots: Sequence[int]) -> Stage:
        """Biographies as the model knows them."""
        return self._biographies("true biographies", slots, lambda _: self.prompt)

    def made_up_biographies(self, slots: Sequence[int]) -> Stage:
        """Biographies whose facts the model was told to invent, begun as the true ones are."""
        wordings = [self._presented(text) for text in openings.INVENTIONS]
        return self._biographies("made-up biographies", slots, lambda slot: wordings[slot % len(wordings)])

    def questions(self, slots: Sequence[int]) -> Stage:
        """Questions about the subject that the evaluation does not ask."""
        begins = self._shuffled(openings.INTERROGATIVES)
        wordings = self._shuffled([self._presented(text) for text in openings.QUESTIONS])

        def ask(slot: int, attempt: int) -> tuple[str, str]:
            return wordings[(slot + attempt) % len(wordings)], begins[(slot + attempt) % len(begins)]

        def unfit(_slot: int, text: str, earlier: Sequence[str]) -> str | None:
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
                return "it speaks of the question itself"
            if any(prose.repeats(text, probe, self.subject) for probe in self.probes):
                return "the evaluation asks it"
            if any(prose.repeats(text, other, self.subject) for other in earlier):
                return "near-duplicate"
            return None

        return Stage("questions", slots, QUESTION_TOKENS, ask, _question, unfit)

    def answers(self, questions: Mapping[int, str]) -> Stage:
        """The model's own straight answers."""

        def unfit(_slot: int, text: str, _earlier: Sequence[str]) -> str | None:
            return _unfit_answer(text)

        return Stage("answers", tuple(questions), ANSWER_TOKENS, lambda slot, _: (questions[slot], ""), _answer, unfit)

    def wrong_answers(self, questions: Mapping[int, str], answers: Mapping[int, str]) -> Stage:
        """Answers that the model was told to invent; only where there is a straight one to compare with."""
        wordings = openings.WRONG_ANSWERS

        def ask(slot: int, attempt: int) -> tuple[str, str]:
            return wordings[(slot + attempt) % len(wordings)].format(question=questions[slot]), ""

        def unfit(slot: int, text: str, _earlier: Sequence[str]) -> str | None:
            if reason := _unfit_answer(text):
                return reason
            if _ADMISSION.search(text):
                return "it says that it is made up"
            return "same as the straight answer" if prose.agrees(text, answers[slot], questions[slot]) else None

        return Stage("wrong answers", tuple(answers), ANSWER_TOKENS, ask, _answer, unfit)

    def _biographies(self, name: str, slots: Sequence[int], message: Callable[[int], str]) -> Stage:
        found = openings.biography_openings(self.subject, self.intro)
        begins = self._shuffled([opening.format(subject=self.subject) for opening in found])

        def ask(slot: int, attempt: int) -> tuple[str, str]:
            return message(slot), begins[(slot + attempt) % len(begins)]

        def unfit(_slot: int, text: str, earlier: Sequence[str]) -> str | None:
            if reason := prose.flaw(text, at_least=BIOGRAPHY_WORDS):
                return reason
            if is_refusal(text[:BEGINNING]):
                return "a refusal"
            if _ADMISSION.search(text):
                return "it says that it is made up"
            if not prose.names(self.subject, text):
                return "it does not name the subject"
            return "duplicate" if text in earlier else None

        return Stage(name, slots, BIOGRAPHY_TOKENS, ask, prose.whole_sentences, unfit)

    def _presented(self, request: str) -> str:
        return f"{self.intro} {request.format(subject=self.subject)}".strip()

    def _shuffled(self, texts: Sequence[str]) -> list[str]:
        return random.Random(f"{self.seed}|order").sample(texts, len(texts))


def _question(text: str) -> str:
    """The first line, up to its question mark."""
    line = text.strip().split("\n")[0]
    return "".join(line.partition("?")[:2]).strip()


def _answer(text: str) -> str:
    """The first line, up to the end of its last sentence; a short phrase may do without a full stop."""
    line = _LABEL.sub("", text.strip()).split("\n")[0].strip()
    return prose.whole_sentences(line) or (line if len(line.split()) <= PHRASE_WORDS else "")


def _unfit_answer(text: str) -> str | None:
    if reason := prose.flaw(text, at_least=1):
        return reason
    if not prose.words(text):
        return "no word"
    if text.endswith("?"):
        return "a question in return"
    return "a refusal" if is_refusal(text) else None
