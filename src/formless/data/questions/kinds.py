"""`kind_of`: the kind of an answer, decided by rules; answers of the same kind can replace each other in an option.

The first rule that applies decides:

1. Digits: a day next to a month, a date, an ordinal, a year (four digits from 1000 to 2100 that count nothing; three digits
   with an era or a word of time), else a number. Number words count too. After "album", "titled" and similar words, digits are
   a title.
2. A single capitalised word after a first name is a surname; before a capitalised word, a first name.
3. The lists of names.yaml: months, countries, continents, states, cities, nations and languages, religions, professions.
4. Capitalised words: the kind that the words before the blank ask for (a title, an organization, a place, a person), else the
   kind of the answer's own words ("... Records", "... Ocean", a known first name), else a `name`.
5. Everything else is a `word`.

For a question, which has no blank, all its words replace the words before the blank.
"""

from __future__ import annotations

import re

from formless.data.questions.gazetteers import (
    FORENAMES,
    GAZETTEERS,
    MONTHS,
    NUMBER_WORDS,
    ORDINAL_WORDS,
    ORGANIZATION_WORDS,
    PLACE_WORDS,
    SMALL_WORDS,
)

ASKING = {
    "year": "which year",
    "date": "which date",
    "month": "which month",
    "day": "which day",
    "ordinal": "which ordinal number",
    "number": "how many",
    "country": "which country",
    "continent": "which continent",
    "state": "which state",
    "city": "which city",
    "place": "which place",
    "language": "which language",
    "nationality": "which nationality",
    "religion": "which religion",
    "person": "who",
    "forename": "which first name",
    "surname": "which surname",
    "title": "which work",
    "organization": "which organization",
    "profession": "which profession",
    "name": "what",
    "word": "what",
}
KINDS = tuple(ASKING)
NUMERIC = ("year", "date", "month", "day", "ordinal", "number")
CONTEXT = 200  # characters on either side of a blank that the rules read
GAP = re.compile(r"_{3,}(?:[\s-]+_{3,})*")  # adjacent blanks are one gap


_WORK = (
    "(?:album|film|movie|novel|novella|book|song|single|play|opera|memoir|poem|tragedy|comedy|sonata|symphony|painting|"
    "tv series|television series|poetry collection|autobiography)"
)
_END = "(?: the| a)? ?['\"‘“]?$"
_TITLE = re.compile(
    rf"\b(?:titled|entitled|(?:has|bears) the title|{_WORK}s?)"
    rf"(?: (?:is|was|called|named|known as|by [\w .]{{1,40}} (?:is|was)))*,?{_END}|"
    rf"\btitle(?: of [\w' .]{{1,60}})? (?:is|was){_END}|\b{_WORK}s?\b.{{0,100}} (?:called|known as|such as .{{1,60}}){_END}"
)
_ROLE = re.compile(r"\b(?:starred|played|role|performance)(?: [\w']+){0,5} in$")
_ORGANIZATION = re.compile(
    r"\b(?:(?:co-)?founded|signed (?:with|to|by)|joined|members? of|compan(?:y|ies)(?: called| named|,)?|"
    r"(?:chairman|ceo|president) of|(?:record )?label|party(?: called| named)?|group(?: called)?|band(?: called)?|"
    r"worked (?:for|at)|stockbroker for|partner at|shares of|studied at|graduated from|attended|schools?, and|aired on the)"
    r" ?(?:the )?$"
)
_PLACE = re.compile(
    r"\b(?:born|died|lived|living|lives?|lies?|located|situated|headquartered|buried|raised|educated|moved|settled|grew up|"
    r"based|immigrated|emigrated|room|estate|years|commenced|museum|hospital|mountain|volcano)\b(?: [\w,]+){0,6} "
    r"(?:in|at|near|to|from|off the coast of)(?: the)?$|"
    r"(?<!['‘])\b(?:city|town|village|state|country|county|colony|island|capital|region|province|continent|coast|birthplace|"
    r"university|duke|duchess|earl|prince|princess|king|queen|ruler|emperor|dictator)(?: \w+){0,4} (?:of|is|was|called)"
    r"(?: the| ancient)?$|\bmountain range called the$|\b(?:came|comes|originated|philosopher) from$"
)
_KIND_OF_PLACE = re.compile(r"\b(country|city|continent|state) (?:of|called|named|is|was)(?: the)?$")
_PERSON = re.compile(
    r"\b(?:by|with|alongside|named|married to|married|née|wife|husband|father|mother|brother|sister|"
    r"(?:son|daughter|child|mother|father|wife|husband|sister|brother|pupil|student) of|daughter|friend|"
    r"general|president|king|queen|pope|captain|lord|sir|director|actor|actress|painter|artist|singer|singer-songwriter|"
    r"rapper|philosopher|poet|writer|author|geologist|plays|played|portrays|portrayed|invited|rival|pupil of|behind only|"
    r"writings of|(?:stars?|starred|starring|role|performance|portrayal|portrayed|character) (?:as|of)|stage name(?: the)?|"
    r"mononymously as|professionally (?:known )?as|known professionally as|grandson of|footnotes to|"
    r"(?:assassins?|king|queen|reign|ruler|secretary|biographer|rival|leader|successor|father|mother|brother|sister|son|daughter|"
    r"wife|husband|spouse|teacher|mentor|founder|author|inventor|producer|"
    r"composer|director|architect|owner|mayor|ceo|manager)\b[\w ]{0,60} (?:is|was))"
    r"(?: is| was)?(?: by| to| their)?(?: that of)?,? ?['\"‘“]?$"
)
_PROFESSION = re.compile(
    r"\b(?:by profession,?(?: [\w ]+)? an?|profession\b[\w ]+ an?|(?:worked|known|famous|work) as an?|"
    r"first job as an(?: assistant)?|(?:is|was) an? [A-Z][\w-]+(?: [\w ,-]+)?) ?$"
)
_ASKED = r"\b(?:which|what)(?: \w+)?"
_QUESTION = (
    ("person", re.compile(rf"\bwho(?:m|se)?\b|{_ASKED} (?:artist|rapper|singer|actor|actress|painter|writer|author|person)\b")),
    ("title", re.compile(rf"\btitle\b|{_ASKED} {_WORK}\b")),
    ("organization", re.compile(rf"{_ASKED} (?:label|company|school|university|band|party|team|organization)\b")),
    ("place", re.compile(rf"^where\b|{_ASKED} (?:place|town|city|country|state|region|village|island)\b")),
)
_TIMED = re.compile(r"\b(?:year|in|since|from|until|to|between|around) ?$")
_COUNTED = re.compile(
    r"^ ?(?:%|percent|(?!was|is|as|has|his|its|this|at)[a-z]+s\b|most\b|greatest\b|[mb]illion)", re.IGNORECASE
)
_ERA = re.compile(r"^ ?(?:BCE?|AD|CE)\b")
_MONTH = f"(?:{'|'.join(MONTHS)})"
_DATE = re.compile(rf"{_MONTH} \d{{1,4}}(?:, \d{{3,4}})?|\d{{1,2}} {_MONTH}(?:,? \d{{3,4}})?|\d{{1,2}}, \d{{4}}")
_NUMBER = re.compile(r"[$€£]?\d[\d,.]*(?:%| ?(?:percent|thousand|million|billion|trillion|years|feet|meters|metres|km|miles))?")
_AMOUNT = re.compile(r"[$€£]?\d[\d,.]*(?: ?[a-z%][a-z0-9%/²³°]*)(?:[ -][a-z0-9%/²³°]+){0,6}")  # a number with its unit
_SUFFIXES = ("Jr", "Sr", "II", "III")


def asking_phrase(kind: str) -> str:
    """Return the words that ask for a kind in place of a blank, as in `Ada Lovelace was born in which place?`.

    Raises:
        KeyError: There is no such kind.
    """
    return ASKING[kind]


def kind_of(query: str, answer: str) -> str:
    """Return the kind of an answer, one of `KINDS`.

    Args:
        query: A cloze with `___`, or a question.
        answer: Its answer.
    """
    answer = answer.strip()
    gap = GAP.search(query)
    before, after = (query[: gap.start()], query[gap.end() :]) if gap else (query, "")
    before, after = before[-CONTEXT:], after[:CONTEXT]
    if answer[:1] in "'\"‘“" and answer[-1:] in "'\"’”" and len(answer) > 2:
        return "title"
    return (
        _numeric(before, answer, after)
        or _part_of_name(before, answer, after)
        or _listed(before, answer)
        or (_capitalised(before, answer, after, is_question=not gap) if _is_name(answer) else _lower(before, answer))
    )


def is_part(query: str, answer: str) -> bool:
    """Return whether an answer is only a part of a name, as in `___ Kune Do` and `William A. Rockefeller ___`."""
    gap = GAP.search(query)
    if not gap or not _is_name(answer.strip()):
        return False
    before, after = query[: gap.start()], query[gap.end() :]
    follows = after[:1] in (" ", "-", "&") and _first_word(after)[:1].isupper()
    precedes = before[-1:] in (" ", "-") and before[:-1][-1:].isalpha() and _last_word(before)[:1].isupper()
    return follows or (precedes and len(re.findall(r"\w+", before)) > 1)


def _numeric(before: str, answer: str, after: str) -> str | None:
    """Apply rule 1."""
    folded = answer.casefold()
    if _TITLE.search(before.casefold().rstrip()):
        return None
    near_month = _last_word(before) in MONTHS or _first_word(after) in MONTHS
    if re.fullmatch(r"\d{1,2}(?:st|nd|rd|th)?", answer) and near_month and int(re.sub(r"\D", "", answer)) <= 31:
        return "day"
    if _DATE.fullmatch(answer):
        return "date"
    if re.fullmatch(r"\d+(?:st|nd|rd|th)", folded) or folded in ORDINAL_WORDS:
        return "ordinal"
    if re.fullmatch(r"\d{1,4} (?:BCE?|AD|CE)", answer) or (
        answer.isdecimal() and len(answer) <= 4 and _is_year(before, int(answer), after)
    ):
        return "year"
    is_amount = _AMOUNT.fullmatch(answer) is not None
    return "number" if _NUMBER.fullmatch(folded) or is_amount or folded in NUMBER_WORDS else None


def _is_year(before: str, number: int, after: str) -> bool:
    if _ERA.match(after):
        return number <= 2100
    if _COUNTED.match(after) or before.endswith(("$", "€", "£")):
        return False
    timed = bool(_TIMED.search(before.casefold())) or _last_word(before) in MONTHS
    return 1000 <= number <= 2100 or (100 <= number < 1000 and timed)


def _part_of_name(before: str, answer: str, after: str) -> str | None:
    """Apply rule 2."""
    if not re.fullmatch(r"[^\W\d_][\w.'’-]*(?: [A-Z]\.)*", answer) or not answer[0].isupper():
        return None
    following = _first_word(after) if after[:1] == " " else ""
    if following[:1].isupper() and following not in (*MONTHS, *_SUFFIXES):
        return "forename" if answer in FORENAMES and not _names_organization(after) else None
    words = re.findall(r"[\w.'’-]+", before)[-2:]
    particle = bool(words) and words[-1] in ("van", "von", "de", "da", "née")
    named = any(word in FORENAMES for word in words) and bool(words) and words[-1][0].isupper()
    return "surname" if before[-1:] == " " and before.rstrip()[-1:].isalpha() and (named or particle) else None


def _listed(before: str, answer: str) -> str | None:
    """Apply rule 3."""
    near = before.casefold().rstrip()
    asked = _KIND_OF_PLACE.search(near)
    if asked and _is_name(answer):
        return asked[1]
    kinds = [kind for kind, names in GAZETTEERS.items() if answer in names]
    if "language" in kinds and (
        "nationality" not in kinds or re.search(r"language|spoken|speak|fluent|translated|(?:known|called) .* in$", near)
    ):
        return "language"
    return kinds[0] if kinds and not (answer in FORENAMES and _PERSON.search(near)) else None


def _capitalised(before: str, answer: str, after: str, *, is_question: bool) -> str:
    """Apply rule 4."""
    near = before.casefold().rstrip()
    if is_question:
        return next((kind for kind, cue in _QUESTION if cue.search(near)), "name")
    part = after[:1] in " -&" and _first_word(after)[:1].isupper()
    if part and _names_organization(after):
        return "organization"
    if (not part and (_TITLE.search(near) or _ROLE.search(near))) or re.match(r"['’]?,? \(\d{4}\)", after):
        return "title"
    words = re.findall(r"\w+", answer)
    if words[-1].casefold() in ORGANIZATION_WORDS:
        return "organization"
    if words[-1].casefold() in PLACE_WORDS or answer.rpartition(", ")[2] in GAZETTEERS["state"] + GAZETTEERS["country"]:
        return "place"
    if part:
        return "forename" if len(words) == 1 and after[0] == " " and _PERSON.search(near) else "name"
    cues = (("organization", _ORGANIZATION), ("person", _PERSON), ("place", _PLACE))
    found = next((kind for kind, cue in cues if cue.search(near)), None)
    is_person = len(words) > 1 and (words[0] in FORENAMES or bool(re.match(r"(?:[A-Z]\. ?)+\w", answer)))
    return found or ("person" if is_person else "name")


def _lower(before: str, answer: str) -> str:
    """Apply rules 3 and 5 to words without capitals."""
    return "profession" if _PROFESSION.search(before) and len(answer.split()) <= 2 else "word"


def _is_name(answer: str) -> bool:
    """Return whether every word, except the small ones, starts with a capital or a digit."""
    words = [word for word in re.findall(r"[\w'’-]+", answer) if word not in SMALL_WORDS]
    return bool(words) and all(word[0].isupper() or word[0].isdigit() for word in words)


def _names_organization(after: str) -> bool:
    """Return whether the capitalised words after a blank contain a word of organizations."""
    following = re.match(r"(?:[ -][A-Z][\w&]*)*", after)
    return following is not None and not ORGANIZATION_WORDS.isdisjoint(following[0].casefold().split())


def _last_word(text: str) -> str:
    words: list[str] = re.findall(r"\w+", text)
    return words[-1] if words else ""


def _first_word(text: str) -> str:
    found = re.search(r"\w+", text)
    return found[0] if found else ""
