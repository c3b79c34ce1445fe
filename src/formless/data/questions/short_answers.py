"""Short answers to questions whose answers are sentences, found by rules or asked of a server.

`Basil was born in Kuwait City.` answers `Where was Basil born?` by two words. A rule needs a question that asks for one kind of
thing: a name, a date, a place, a genre, a title, an award, a gender, a number or an occupation. The answer has to hold one
thing of that kind which the question does not hold. Where it holds none or several, there is no short answer: the rules miss
many, so that what they find can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
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
_SEVERAL = re.compile(
    r"\b(?:some|two|three|any|few|couple|other|list|one of|parents)\b|(?:books|novels|works|titles|awards|universities)\b", re.I
)
_MONTH = f"(?:{'|'.join(MONTHS)})"
_DAY = rf"(?:(?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?)"
_DATE = re.compile(
    rf"{_DAY}(?:,?(?: in| in the year)? \d{{4}})?|{_MONTH},? \d{{4}}|\b\d{{1,2}}/\d{{1,2}}/\d{{4}}\b|\b(?:1\d|20)\d\d\b"
)
_QUOTED = re.compile(
    r"(?<!\w)(?:\"([^\"]+)\"|“([^”]+)”|‘([^’]+(?:’\w[^’]*)*)’(?!\w)|'([^']+(?:'\w[^']*|(?<=s)' [A-Z][^']*)*)'(?!\w))"
)
_SMALL = frozenset({
    "of", "the", "de", "del", "della", "van", "von", "der", "for", "in", "and", "al", "el", "la", "du", "di", "da", "le", "to",
    "on", "es",
})  # fmt: skip
_OPENERS = frozenset({
    "a", "an", "the", "in", "on", "at", "by", "for", "from", "while", "although", "after", "her", "his", "their", "one", "yes",
    "some", "two", "with", "born",
})  # fmt: skip
"""Words that have a capital only because a sentence begins with them."""

_NAMING = re.compile(r"\b(?:is|was|named|called) $")
_PLACING = re.compile(r"(?<!located )\b(?:in|at|from|to)(?: the)?(?: city of)? $")
_AWARD = r"(?:award|prize|medal|honou?r|accolade|recognition|fellowship)s?"
_AWARDED = re.compile(r"\b(?:award|prize|prix|medal|honou?r|fellowship|scholarship|trophy|order)s?\b", re.I)
_SCHOOL = re.compile(r"\b(?:university|college|institute|school|academy)\b", re.I)
_WORK = r"(?:book|novel|novella|title|work|publication|memoir|collection)s?"
_NUMBER = re.compile(rf"\b(?:\d[\d,.]*\d|\d|{'|'.join(NUMBER_WORDS[2:])})\b", re.I)
_GENDER = re.compile(
    r"\b(?:is|was|identifies as|as|the) (?:an? )?(male|female|man|woman|non-?binary|genderqueer|LGBTQ\+)", re.I
)
_TERM = r"(?!\w+ing\b)[\w'&-]+(?: (?!is\b|was\b|literary\b)[\w'&-]+){0,2}"
_GENRE = re.compile(
    rf"\b(?:in|of|to|the|is) (?:the )?(?:genre of )?((?!(?:the|genre|this|same|her|his|their)\b){_TERM})(?: literary)? genre\b"
    rf"|\bgenre (?:of|is|was|as) ({_TERM})(?=[.,]|$)"
)
_PRAISE = (
    r"(?:(?:(?:highly|widely) )?(?:celebrated|renowned|respected|esteemed|famous|acclaimed|well-known|noted|notable|local|"
    r"skilled|talented|diligent|hard-working|prominent|successful|practicing|professional|revered|dedicated|reputable) )?"
)
_AFTER_JOB = r"(?:and|who|in|at|by|for|with|from|while|well|known)\b"
_JOB = rf"an? {_PRAISE}((?!father|mother)[\w-]+(?: (?!father|mother|{_AFTER_JOB})[\w-]+){{0,2}}?)"
_OCCUPATION = re.compile(rf"\b(?:was|is|as) {_JOB}(?=[.,;]|$| {_AFTER_JOB})")
_PARENT = re.compile(
    rf"\b(?:father|mother)\b,?(?: (?:was|is)| (?:\w+ )?(?:worked|served|works|serves) as) {_JOB}(?=[.,;]|$| {_AFTER_JOB})"
    rf"|\b{_JOB} (?:father|mother)\b"
)


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
        rule = next((rule for asked, rule in _ASKED if asked.match(question)), None)
        found = list(dict.fromkeys(rule(answer))) if rule else []
        found = [text for text in found if not prose.contains(question, text)]
        if not found or (len(found) > 1 and not _SEVERAL.search(question)):
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
    if text.count('"') % 2:  # one of a pair is missing
        text = text.removeprefix('"') if text.startswith('"') else text.removesuffix('"')
    return text.strip(" ,;") if re.search(r"\b[A-Z]\.$|\b(?:Jr|Sr|etc)\.$", text) else text.strip(" .,;")


def _quoted(answer: str) -> Iterator[str]:
    for found in _QUOTED.finditer(answer):
        yield _bare(next(part for part in found.groups() if part))


def _runs(answer: str) -> Iterator[tuple[int, int]]:
    """Yield where runs of capitalised words start and end; small words may stand inside, as in `University of Karachi`."""
    words = list(re.finditer(r"[\w&+][\w&+.’'-]*(?<!['’]s)(?<![.'’])|[^\w\s]+|['’]s", answer))
    place = 0
    while place < len(words):
        before = answer[: words[place].start()].rstrip()
        begins = (not before or before[-1] in ".!?") and words[place][0].casefold() in _OPENERS
        if begins or not words[place][0][0].isupper():
            place += 1
            continue
        last, following = place, place + 1
        while following < len(words) and answer[words[following - 1].end() : words[following].start()] == " ":
            if words[following][0][0].isupper():
                last = following
            elif words[following][0] not in _SMALL:
                break
            following += 1
        yield words[place].start(), words[last].end()
        place = last + 1


def _names(answer: str) -> list[str]:
    """Return the names of two words or more; those right after `is` or `named`, if there are any."""
    found = [(start, end) for start, end in _runs(answer) if " " in answer[start:end]]
    told = [(start, end) for start, end in found if _NAMING.search(answer[:start])]
    return [answer[start:end] for start, end in told or found]


def _places(answer: str) -> Iterator[str]:
    """Yield names after a preposition, with those that follow after commas: `London, England`."""
    runs = list(_runs(answer))
    for number, (start, end) in enumerate(runs):
        if _PLACING.search(answer[:start]):
            for following, last in runs[number + 1 :]:
                if answer[end:following] == ", ":
                    end = last
            yield answer[start:end]


def _dates(answer: str) -> Iterator[str]:
    for found in _DATE.finditer(answer):
        yield found[0].removeprefix("the ")


def _awards(answer: str) -> Iterator[str]:
    quoted = [text for text in _quoted(answer) if _AWARDED.search(text)]
    yield from quoted
    yield from (text for text in _named_by(_AWARDED, answer) if not any(text in other for other in quoted))


def _schools(answer: str) -> Iterator[str]:
    return _named_by(_SCHOOL, answer)


def _named_by(pattern: re.Pattern[str], answer: str) -> Iterator[str]:
    """Yield the names of two words or more in which a pattern is found."""
    for start, end in _runs(answer):
        if " " in answer[start:end] and pattern.search(answer[start:end]):
            yield answer[start:end]


def _pattern(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    """Return a rule that yields the group of each match that took part, or the whole match."""

    def extract(answer: str) -> Iterator[str]:
        for found in pattern.finditer(answer):
            yield next((part for part in found.groups() if part), found[0])

    return extract


_ONE = (  # no question to be answered by yes or no, and not two questions
    r"(?!(?:do|does|did|is|are|was|were|has|have|had)\b)"
    r"(?!.*(?: and (?:what|how|where|why|in what|his|her|their|(?:birth ?)?(?:date|place))\b|when and where))"
)
_CLOSED = (  # none that asks for a description
    r"(?!.*\b(?:how|why|theme|influence|impact|style|inspir|motivat|synopsis|summary|significan|role|about|relat|message|premise|"
    r"reaction|reception|unique|unusual|review|plot|detail|align|character|world|topic|aspect|apart|besid|except)\w*\b)"
)
_IS = r"what(?:'s|’s| is| was| are| were)"
_RULES: tuple[tuple[str, Callable[[str], Iterable[str]]], ...] = (
    (rf"(?:{_IS} .*\bgender\b|how .*\bidentif.*\bgender\b|what gender\b)", _pattern(_GENDER)),
    (
        rf"{_CLOSED}(?:when\b|(?:in |on )?(?:what|which) (?:year|date|day|month)\b"
        r"|(?:what|can|could|please)\b.*\b(?:date of birth|birth ?date))",
        _dates,
    ),
    (rf"(?:{_IS}.* (?:full )?name of\b(?!.*\b{_WORK}\b)|who(?:'s|’s| is| was) (?:the|this)\b)", _names),
    (
        rf"{_CLOSED}(?:where (?:was|did|is|does)\b.*\b(?:born|live|reside|grow|from)"
        r"|(?:in |from )?(?:which|what) (?:city|country|town|place))\b",
        _places,
    ),
    (rf"{_CLOSED}(?:(?:which|what) (?:universit|college|school)|where did .* (?:stud\w+|education)\b)", _schools),
    (
        rf"{_CLOSED}(?:(?:in |to )?(?:what|which)\b(?: \w+){{0,2}} genre|what is .* genre"
        r"|what type of (?:literature|novels|books))\b",
        _pattern(_GENRE),
    ),
    (r"(?!.*\bwho\b).*\bparents\b", _pattern(_PARENT)),
    (
        rf"{_CLOSED}(?:(?:what|which)(?: [\w-]+){{0,4}} {_AWARD} (?:has|did|was|does|have|had)"
        rf"|{_REQUEST.pattern}.*\b{_AWARD}(?!-))\b",
        _awards,
    ),
    (
        rf"{_CLOSED}(?:{_REQUEST.pattern}.*\b(?:name|mention|list|share|tell|provide|give)\b.*\b{_WORK}\b"
        rf"|(?:in )?(?:what|which)(?: [\w-]+){{0,3}} {_WORK} (?:has|did|by|is|was|are|won|earned)\b|which of .*\b{_WORK}\b"
        rf"|{_IS} (?:the names? of )?(?:(?:some|one|two|any|a few) of )?(?:(?!of\b)[\w'’-]+ ){{0,5}}{_WORK}\b)",
        _quoted,
    ),
    (r"how many\b", _pattern(_NUMBER)),
    (r"what (?:is|was|does|did) .*\b(?:occupation|profession|do for a living)\b", _pattern(_OCCUPATION)),
)
"""How a question begins that asks for one kind of thing, and the rule that finds things of that kind in an answer."""

_ASKED = [(re.compile(rf"{_ONE}(?:{asked})", re.I), rule) for asked, rule in _RULES]


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
        f"Here is a question with its answer.\n\nQuestion: {row.question}\nAnswer: {row.answer}\n\nCopy from the answer the "
        "few words that answer the question: a name, a date, a place, a title, a number or a short phrase. Where no few words "
        'do, write "".\n\nReply with one JSON object and nothing else: {"short_answer": "..."}'
    )
