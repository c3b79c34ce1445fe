"""Short answers to questions whose answers are sentences, found by rules or asked of a server.

`Basil was born in Kuwait City.` answers `Where was Basil born?` by two words. A rule needs a question that asks for one kind of
thing: a name, a date, a place, a genre, a title, an award, a gender, a number or an occupation. The answer has to hold one
thing of that kind which the question does not hold. Where it holds none or several, there is no short answer: the rules miss
many, so that what they find can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from formless.data import prose
from formless.data.questions.distractors import Dropped
from formless.data.questions.gazetteers import MONTHS, NUMBER_WORDS
from formless.data.rows import QuestionAnswer
from formless.data.server import Journal, ReplyError, Server, ServerError, ask_validated, digest, read_object

LONGEST = 8
"""The most words of a short answer."""

NO_RULE = Dropped("the answer is a sentence, and no rule finds the short answer in it")
YES_OR_NO = Dropped("a question to be answered by yes or no")

_YES_NO = re.compile(r"(?:yes|no|indeed|not really)\b", re.I)
_REQUEST = re.compile(r"(?:please|(?:can|could|would) you)\b", re.I)
_MONTH = f"(?:{'|'.join(MONTHS)})"
_DATE = re.compile(
    rf"(?:(?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?)(?:,? \d{{4}})?"
    rf"|{_MONTH},? \d{{4}}|\b\d{{1,2}}/\d{{1,2}}/\d{{4}}\b|\b(?:1\d|20)\d\d\b"
)
_QUOTED = re.compile(r"(?<!\w)(?:\"([^\"]+)\"|“([^”]+)”|‘([^’]+(?:’\w[^’]*)*)’(?!\w)|'([^']+(?:'\w[^']*)*)'(?!\w))")
_SMALL = "of|the|de|del|della|van|von|der|for|in|and|al|el|la|du|di|da|le|to|on"
_WORD = r"[^\W\d_][\w.&+-]*(?:['’](?!s\b)\w+)*"
_RUN = re.compile(rf"{_WORD}(?: (?:(?:{_SMALL}) )*{_WORD})*")
_AWARD = r"(?:award|prize|medal|honou?r|accolade|recognition|fellowship)s?"
_WORK = r"(?:book|novel|title|work|publication|memoir|collection|series|play)s?"
_NUMBER = re.compile(rf"\b(?:\d[\d,.]*\d|\d|{'|'.join(word for word in NUMBER_WORDS[2:])})\b", re.I)
_GENDER = re.compile(
    r"\b(?:is|was|identifies as|as|the) (?:an? )?(male|female|man|woman|non-?binary|genderqueer|LGBTQ\+)", re.I
)
_GENRE = re.compile(
    r"\b(?:in|of|to|the|is) (?:the )?(?:genre of )?(?P<before>(?!the\b|genre\b|this\b|same\b)[\w'&-]+(?: [\w'&-]+){0,2}) genre\b"
    r"|\bgenre (?:of|is|was|as) (?P<after>[\w'&-]+(?: [\w'&-]+){0,2})(?=[.,]|$)",
)
_OCCUPATION = re.compile(r"\b(?:was|is|as) an? ([\w -]+?)(?= who| and| in| at| by| for| with| from|[.,;]|$)")


@dataclass(frozen=True)
class ShortAnswer:
    """A short answer.

    Args:
        text: It, in the words of the answer.
        others: Other things that the answer gives, each a right answer too.
    """

    text: str
    others: tuple[str, ...] = ()


def short_answer(row: QuestionAnswer) -> ShortAnswer | Dropped:
    """Return the short answer of a row, or why there is none.

    An answer of a few words without a full stop is one itself.

    Examples:
        >>> row = QuestionAnswer(question="Where was Ada Byron born?", answer="Ada Byron was born in London, England.")
        >>> short_answer(row).text
        'London, England'
    """
    question, answer = " ".join(row.question.split()), " ".join(row.answer.split())
    if _YES_NO.match(answer) and not _REQUEST.match(question):
        return YES_OR_NO
    if _is_short(answer):
        found = [_bare(answer)]
    else:
        rule = next((extract for pattern, extract in _RULES if pattern.search(question)), None)
        found = list(dict.fromkeys(rule(answer))) if rule else []
        found = [text for text in found if not prose.contains(question, text)]
        if not found or (len(found) > 1 and not _asks_several(question)):
            return NO_RULE
    if not prose.words(found[0]) or prose.contains(question, found[0]):
        return Dropped("the question holds the answer")
    return ShortAnswer(found[0], tuple(found[1:]))


def _is_short(answer: str) -> bool:
    words = len(answer.split())
    return words <= LONGEST and (words <= 3 or not answer.endswith((".", '."', ".'", ".”")))


def _bare(text: str) -> str:
    """Return a text without quotes around it and the stop at its end; that of an initial or abbreviation stays."""
    quoted = _QUOTED.fullmatch(text)
    text = next(part for part in quoted.groups() if part) if quoted else text
    return text.strip(" ,;") if re.search(r"\b[A-Z]\.$|\b(?:Jr|Sr|etc)\.$", text) else text.strip(" .,;")


def _asks_several(question: str) -> bool:
    return bool(
        re.search(r"\b(?:some|two|three|any|few|couple|other|list|one of)\b|books\b|novels\b|works\b|titles\b", question)
    )


def _quoted(answer: str) -> Iterator[str]:
    for found in _QUOTED.finditer(answer):
        yield _bare(next(part for part in found.groups() if part))


def _runs(answer: str) -> Iterator[re.Match[str]]:
    """Yield the runs of capitalised words; the first word of a sentence counts only before another one."""
    for found in _RUN.finditer(answer):
        words = [*re.finditer(r"\S+", found[0])]
        start = 0
        while start < len(words):
            end = start
            while end < len(words) and (words[end][0][0].isupper() or (end > start and words[end][0] in _SMALL.split("|"))):
                end += 1
            last = end
            while last > start and not words[last - 1][0][0].isupper():
                last -= 1
            if last > start:
                begin, stop = found.start() + words[start].start(), found.start() + words[last - 1].end()
                if run := re.compile(r".+").match(answer, begin, stop):
                    yield run
            start = max(end, start + 1)


def _names(answer: str) -> Iterator[str]:
    for run in _runs(answer):
        if len(run[0].split()) > 1 and not _QUOTED.search(run[0]):
            yield run[0].rstrip(".,")


def _places(answer: str) -> Iterator[str]:
    """Yield capitalised runs after a preposition, with those that follow after commas: `London, England`."""
    runs = list(_runs(answer))
    for number, run in enumerate(runs):
        if not re.search(r"\b(?:in|at|from|to)(?: the)?(?: city of)? $", answer[: run.start()]):
            continue
        end = run.end()
        for following in runs[number + 1 :]:
            if answer[end : following.start()] != ", ":
                break
            end = following.end()
        yield answer[run.start() : end].rstrip(".")


def _dates(answer: str) -> Iterator[str]:
    for found in _DATE.finditer(answer):
        yield found[0].removeprefix("the ")


def _awards(answer: str) -> Iterator[str]:
    quoted = list(_quoted(answer))
    yield from quoted
    for run in _runs(answer):
        if re.search(rf"\b{_AWARD}\b", run[0], re.I) and not any(run[0] in text or text in run[0] for text in quoted):
            yield run[0].rstrip(".,")


def _pattern(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    def extract(answer: str) -> Iterator[str]:
        for found in pattern.finditer(answer):
            yield next((part for part in found.groups() if part), found[0])

    return extract


def _asking(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.I)


_SEVERAL = r"(?!.* and (?:what|how|where|why|in what|his|her|their)\b)"
_OPEN = r"(?!.*\b(?:how|why|theme|influence|impact|style|inspir|motivat|synopsis|summary|significan|role|about|relat)\w*\b)"
_RULES: tuple[tuple[re.Pattern[str], Callable[[str], Iterator[str]]], ...] = (
    (_asking(rf"^{_SEVERAL}(?:what(?:'s|’s| is| was) .*\bgender\b|how .*\bidentif.*\bgender\b|what gender\b)"), _pattern(_GENDER)),
    (_asking(rf"^{_SEVERAL}{_OPEN}(?:when\b|(?:in |on )?(?:what|which) (?:year|date|day|month)\b|.*\b(?:date of birth|birth ?date))"),
     _dates),
    (_asking(rf"^{_SEVERAL}(?:what(?:'s|’s| is| was).* (?:full )?name of\b|who(?:'s|’s| is| was) (?:the|this)\b)"), _names),
    (_asking(rf"^{_SEVERAL}{_OPEN}(?:where (?:was|did|is|does)\b.*\b(?:born|live|reside|grow|from|die|study|raised)"
             r"|(?:in |from )?(?:which|what) (?:city|country|town|place))\b"), _places),
    (_asking(rf"^{_SEVERAL}{_OPEN}(?:(?:in |to )?(?:what|which)\b(?: \w+){{0,2}}|what is .*) genre\b"), _pattern(_GENRE)),
    (_asking(rf"^{_SEVERAL}{_OPEN}(?:what|which)(?: [\w-]+){{0,3}} {_AWARD} (?:has|did|was|does|have)\b"), _awards),
    (_asking(rf"^{_SEVERAL}{_OPEN}(?:(?:please|(?:can|could|would) you)\b.*\b(?:name|mention|list|share|tell|provide|give)\b.*\b{_WORK}\b"
             rf"|(?:what|which)(?: [\w-]+){{0,3}} {_WORK} (?:has|did|by|is|was|are|won|earned)\b"
             rf"|what (?:is|was|are|were) .*(?:['’]s?|of|by) (?:[\w-]+ ){{0,3}}{_WORK}\?$)"), _quoted),
    (_asking(rf"^{_SEVERAL}how many\b"), _pattern(_NUMBER)),
    (_asking(rf"^{_SEVERAL}(?!.*\bparents\b)what (?:is|was|does|did) .*\b(?:occupation|profession|do for a living)\b"),
     _pattern(_OCCUPATION)),
)  # fmt: skip
"""What a question asks for, and how it is found in an answer; the first that fits decides."""


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    short_answer: str


def ask_short_answer(row: QuestionAnswer, server: Server, journal: Journal | None = None) -> ShortAnswer | Dropped:
    """Ask a server for the short answer, which has to stand in the answer word for word; rows in the journal are not asked.

    Raises:
        ServerError: The server stopped answering; the answers so far are in the journal.
    """

    def checked(text: str) -> str:
        text = text.strip()
        if not text:
            return ""
        if text not in row.answer:
            raise ValueError("it must be copied from the answer, letter by letter")
        if not prose.words(text) or len(text.split()) > LONGEST or prose.contains(row.question, text):
            raise ValueError(f"it must have at most {LONGEST} words and say what the question does not say")
        return text

    key = digest(server.model, "short answer", row.question, row.answer)
    known = (journal and journal.get(key)) or {}
    if isinstance(known.get("dropped"), str):
        return Dropped(known["dropped"])
    try:
        return ShortAnswer(checked(known["text"]))
    except (KeyError, AttributeError, ValueError):  # not in the journal yet, or the line was changed by hand
        pass
    try:
        found = ask_validated(server, _prompt(row), lambda reply: checked(read_object(reply, _Reply).short_answer))
        reason = "" if found else "the server finds no short answer"
    except ReplyError as error:
        found, reason = "", f"no short answer from the server: {error.remedy}"
    except ServerError as error:
        raise ServerError(error.what, where=error.where, remedy=f"{error.remedy}; finished rows are kept") from None
    if journal:
        journal.add(key, **({"dropped": reason} if reason else {"text": found}))
    return Dropped(reason) if reason else ShortAnswer(found)


def _prompt(row: QuestionAnswer) -> str:
    return (
        f"Here is a question with its answer.\n\nQuestion: {row.question}\nAnswer: {row.answer}\n\nCopy from the answer the few "
        "words that answer the question: a name, a date, a place, a title, a number or a short phrase. Where no few words do, "
        'write "".\n\nReply with one JSON object and nothing else: {"short_answer": "..."}'
    )
