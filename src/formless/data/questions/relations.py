"""Statements with a blank from triples and from questions, and questions from statements, made by rules.

A question is built from the statement by three patterns (`was born in ___`, `wrote ___`, `is the capital of ___`) with a
question word for the kind of the answer. A statement without such a pattern gets the asking phrase in place of its blank. Where
the statement names the kind itself (`in the year ___`, `in the town of ___`), that word asks. No question has a wording that
`awkward` finds, if there is another.
"""

from __future__ import annotations

import re

from formless.data import prose
from formless.data.questions.kinds import asking_phrase, kind_of
from formless.data.rows import BLANK

TIMES = ("year", "date", "month", "day")
PLACES = ("country", "continent", "state", "city", "place")


def _listed(names: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()) for name in names.split("|"))


# Relations that are often written without a verb.
_VERBLESS = {
    "was": """born in|born on|born at|raised in|buried in|buried at|married to|educated at|written by|directed by|painted by|
        composed by|founded by|founded in|invented by|invented in|discovered by|discovered in|designed by|built in|built by|
        established in|published in|released in|produced by|named after|killed by|influenced by|awarded""",
    "is": "located in|situated in|based in|headquartered in|known for|known as|famous for|part of|surrounded by",
    "was a": "member of|student of|pupil of|friend of|professor at|citizen of",
    "was the": """author of|founder of|inventor of|discoverer of|director of|composer of|son of|daughter of|child of|father of|
        mother of|brother of|sister of|wife of|husband of|leader of|king of|queen of|president of""",
    "is the": "capital of|largest city of|official language of",
}
_WRITTEN_OUT = {relation: f"{verb} {relation}" for verb, names in _VERBLESS.items() for relation in _listed(names)}
_ATTRIBUTES = _listed(
    """place of birth|birthplace|birth place|date of birth|birth date|year of birth|place of death|date of death|
    year of death|cause of death|burial place|occupation|profession|nationality|citizenship|country of citizenship|religion|
    native language|spouse|wife|husband|father|mother|brother|sister|son|daughter|child|middle name|first name|last name|
    birth name|maiden name|nickname|pen name|stage name|author|writer|director|composer|producer|publisher|founder|inventor|
    owner|architect|capital|population|area|height|length|depth|currency|official language|continent|country|headquarters|
    symbol|motto|genre|instrument|alma mater|doctoral advisor|employer|successor|predecessor|debut album|first novel|
    record label|field|political party"""
)
_VERBS = dict(
    pair.split(" ")
    for pair in _listed(
        """attended attend|became become|built build|composed compose|created create|defeated defeat|designed design|
        developed develop|died die|directed direct|discovered discover|fought fight|founded found|graduated graduate|
        grew grow|invented invent|joined join|led lead|lived live|married marry|met meet|moved move|opened open|painted paint|
        played play|produced produce|published publish|received receive|recorded record|ruled rule|sang sing|served serve|
        settled settle|sold sell|spoke speak|starred star|started start|studied study|taught teach|translated translate|
        travelled travel|won win|worked work|wrote write"""
    )
)
_PLACED = _listed("born|raised|buried|educated|located|situated|based|headquartered|held|baptized")
_PLACING = _listed("die|live|study|work|graduate|grow|settle|move|teach")
_MADE = _listed(
    """written|directed|painted|composed|founded|invented|discovered|designed|built|produced|killed|created|published|led|
    raised|taught|influenced"""
)
_RELATIVES = _listed(
    """father|mother|brother|sister|son|daughter|child|wife|husband|spouse|friend|pupil|student|teacher|successor|predecessor|
    doctoral advisor"""
)
_PEOPLE = _RELATIVES | _listed("author|writer|director|composer|founder|inventor|owner|architect")

# A kind that the statement names before its blank, after a preposition.
_NAMED = re.compile(
    rf"\b(in|to|from|at|near|until|since|before|after|around|by) (?:the )?"
    rf"(year|month|country|continent|state|city|town|village|county|province|region)(?: of)? {BLANK}"
)
_KINDS_OF_PLACES = ("town", "village", "county", "province", "region")
_ASKED = r"(?:which|what|who|whom|how many|when|where)"
_AWKWARD = {
    "a word twice in a row": re.compile(r"\b([^\W\d_]+) \1\b", re.I),
    "what it asks for stands before the asking word too": re.compile(rf"\b(\w+)(?: of)? {_ASKED} \1\b", re.I),
    "an article before the asking word": re.compile(r"\b(?:an?|the) (?:which|whom?|how many|when|where)\b", re.I),
    "a time before the asking word": re.compile(rf"\b(?:the|in|on) (?:year|month|date|day) {_ASKED}\b", re.I),
    "a place before a word that asks for no place": re.compile(
        r"\b(?:city|town|village|country|state) of (?:who|whom|how many|when)\b", re.I
    ),
    "two asking words": re.compile(rf"\b{_ASKED}\b(?: \w+){{0,2}} (?:which|what|whom|how many)\b", re.I),
    "a blank, or no question mark at its end": re.compile(rf"{BLANK}|\?.*\?|[^?]$"),
}

_AUXILIARY = r"(?!(?:do|does|did|is|was|are|were|has|had|have|will|would|can|could|else)\b)"
_PAST = "became|built|came|found|gave|led|made|said|sang|saw|sent|taught|told|took|went|won|wrote"
# Questions that are statements once their asking word is a blank, or stands at the end.
_COPULA = re.compile(r"(?:What|Who) (is|was|are|were) ((?:the|[A-Z][\w.-]+(?: [A-Z][\w.-]+)*['’]s?) [^,?]+)")
_WHO = re.compile(rf"Who {_AUXILIARY}((?:\w+(?:ed|[a-z]s)|{_PAST})\b [^?]+)")
_WHERE = re.compile(
    r"In (?:which|what) (year|city|country|town) (was|were) ((?:[A-Z][\w.'’-]+ ?)+) (born|buried|raised|founded|killed)"
)
_OPEN_END = re.compile(
    r"\b(?:doing|used|like|called|about|against|as|at|by|for|from|in|into|of|off|on|out|over|to|up|with|and (?:how|wh\w+).*)$"
)


def statement(subject: str, relation: str) -> str:
    """Return a triple's subject and relation as a cloze.

    A relation is put between subject and blank as it is. Common relations without a verb get one ("born in", "capital of"), and
    common attributes ("place of birth", "spouse") become `The spouse of ... is ___.`
    """
    folded = relation.casefold()
    if folded in _ATTRIBUTES:
        return f"The {relation} of {subject} is {BLANK}."
    return f"{subject} {_WRITTEN_OUT.get(folded, relation)} {BLANK}."


def statement_from(question: str) -> str | None:
    """Return a question as a cloze, where no word has to change its form; None for other questions.

    Examples:
        >>> statement_from("Who succeeded Cornelius Fudge?")
        '___ succeeded Cornelius Fudge.'
        >>> statement_from("What is the name of the owl?")
        'The name of the owl is ___.'
    """
    asked = " ".join(question.split()).removesuffix("?").rstrip()
    if (found := _COPULA.fullmatch(asked)) and not _OPEN_END.search(asked):
        return f"{found[2][0].upper()}{found[2][1:]} {found[1]} {BLANK}."
    if (found := _WHO.fullmatch(asked)) and not re.search(r"\b(?:do|does|did)\b", found[1].partition(" that ")[0]):
        return f"{BLANK} {found[1]}."
    if found := _WHERE.fullmatch(asked):
        return f"{found[3]} {found[2]} {found[4]} in {'the year ' if found[1] == 'year' else ''}{BLANK}."
    return None


def question(cloze: str, answer: str, subject: str) -> str:
    """Return a cloze as a question.

    Args:
        cloze: A statement with one blank.
        answer: The text for the blank.
        subject: The subject of the statement.
    """
    kind = "person" if _asks_for_person(cloze) else kind_of(cloze, answer)
    named = _NAMED.search(cloze)
    if named:
        cloze = f"{cloze[: named.start()]}{named[1]} {BLANK}{cloze[named.end() :]}"
        kind = "place" if named[2] in _KINDS_OF_PLACES else named[2]
    tail = re.fullmatch(rf"{re.escape(subject)} (.+) {BLANK}\.?", cloze)
    attribute = re.fullmatch(rf"The (.+) of {re.escape(subject)} (is|was) {BLANK}\.?", cloze)
    asked = None
    if attribute:
        asked = f"{_what_phrase(kind)} {attribute[2]} the {attribute[1]} of {subject}?"
    elif tail:
        asked = _passive(tail[1], kind, subject) or _active(tail[1], kind, subject)
    phrase = f"which {named[2]}" if named else asking_phrase(kind)
    if asked and named:
        asked = re.sub(r"^(?:In which \w+|When|Where)\b", f"{named[1].capitalize()} {phrase}", asked)
        asked = re.sub(rf" {named[1]}\?$", "?", asked)
    forms = ([asked] if asked else []) + [_replaced(cloze, each) for each in (phrase, "what", "which thing")]
    usable = [form for form in forms if not prose.contains(form, answer)]
    return next((form for form in usable if not awkward(form)), usable[0])


def awkward(text: str) -> str | None:
    """Return what is wrong with a question's wording, as rules can see it; None where they find nothing.

    E.g. `died in the year which year?`, `wrote the which work?`. What a question means, they do not see.
    """
    return next((fault for fault, pattern in _AWKWARD.items() if pattern.search(text)), None)


def _asks_for_person(cloze: str) -> bool:
    """Return whether the words at the blank ask for a person: `the father of Ada is ___`, `Ada is the daughter of ___`."""
    role, relative = (f"(?:{'|'.join(sorted(names))})" for names in (_PEOPLE, _RELATIVES))
    last = rf"\b{relative} of {BLANK}|\b{role} of [\w' .-]+ (?:is|was) {BLANK}"
    return re.search(rf"{last}|^{BLANK} (?:is|was) the {role} of\b", cloze) is not None


def _passive(tail: str, kind: str, subject: str) -> str | None:
    """Return a question for passives and copulas: `was born in`, `is the capital of`, `was written by`."""
    found = re.fullmatch(r"(is|was|are|were) (.+) (in|on|at|by|of)", tail)
    if not found:
        return None
    verb, middle, preposition = found.groups()
    if preposition == "by":
        return f"By whom {verb} {subject} {middle}?" if kind == "person" or middle in _MADE else None
    if preposition == "of":
        capital = re.fullmatch(r"the (?:\w+ )?capital", middle)
        return f"Of which country {verb} {subject} {middle}?" if capital and kind != "state" else None
    if kind in TIMES:
        return f"{_when_phrase(kind)} {verb} {subject} {middle}?"
    return f"Where {verb} {subject} {middle}?" if kind in PLACES or middle in _PLACED else None


def _active(tail: str, kind: str, subject: str) -> str | None:
    """Return a question for active verbs: `wrote`, `died in`, `studied mathematics at`."""
    verb, _, rest = tail.partition(" ")
    base = _VERBS.get(verb)
    if base is None:
        return None
    if not rest:
        who = kind == "person" or base in ("marry", "meet")
        return f"{'Whom' if who else 'What'} did {subject} {base}?"
    found = re.fullmatch(r"(?:(.+) )?(in|on|at|from|to)|(at the age) (of)", rest)
    if not found:
        return None
    middle, preposition = found[1] or found[3], found[2] or found[4]
    did = f"did {subject} {base}{f' {middle}' if middle else ''}"
    if preposition == "of":  # "died at the age of"
        return f"At which age did {subject} {base}?"
    if kind in TIMES and preposition in ("in", "on"):
        return f"{_when_phrase(kind)} {did}?"
    if kind in PLACES or base in _PLACING:
        return f"Where {did}{f' {preposition}' if preposition in ('from', 'to') else ''}?"
    return None


def _when_phrase(kind: str) -> str:
    return "In which year" if kind == "year" else "In which month" if kind == "month" else "When"


def _what_phrase(kind: str) -> str:
    return "Who" if kind == "person" else "What"


def _replaced(cloze: str, phrase: str) -> str:
    """Return the cloze with an asking phrase in place of the blank, including an article before it and quotes around it."""
    gap = re.compile(rf"(?:\b(?:an?|the) )?(?:['\"‘“]{BLANK}['\"’”](?!\w)|{BLANK})", re.I)
    asked = gap.sub(lambda found: phrase if found.start() else phrase.capitalize(), cloze, count=1).rstrip(" .!")
    return re.sub(r"\b(with|by|of|to|for|from|after|against) who\b", r"\1 whom", asked) + "?"
