"""Questions beside the seven forms: paraphrases, conversations, two hops and translations of the level-2 probes.

Paraphrases and conversations can be made by rules; the texts of `kinds.json` replace the rules' paraphrases and add the other
kinds. What cannot be made, or does not pass the checks, is dropped and counted with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from formless.data.questions.mentions import SHORTEST, gives_away
from formless.data.rows import LANGUAGES, Aliases, Item, Kind, KindItem, KindTexts, Wording
from formless.data.words import Words, holds, words_of

PARAPHRASES = 3
"""The number of paraphrases of a question."""

ASSISTANT = "Gladly. What would you like to know?"
"""What the assistant says before the question; it gives nothing away."""

_FORMS = {
    "he": ("he", "him", "his"), "she": ("she", "her", "her"), "it": ("it", "it", "its"), "they": ("they", "them", "their"),
}  # fmt: skip
# What stands before a subject; after any other word the pronoun is an object.
_BEFORE_SUBJECT = frozenset({
    "did", "does", "do", "was", "is", "were", "are", "has", "had", "have", "can", "could", "will", "would", "that", "which",
    "whom", "when", "where", "because", "while",
})  # fmt: skip
_AFTER_PHRASE = frozenset({"come", "born", "lie", "located", "belong", "in", "on", "of", "from", "to", "and", "according"})
_WH = r"(?:which|what|who|whom|whose|where|when|how|why)"
_BEGIN = re.compile(
    rf"(?:(?:in|on|at|of|for|from|to|by|with|against|about|after|off|through|as|until|during|name)\b|{_WH}\b)", re.I
)
_INVERTED = re.compile(
    r"(?P<asked>(?:(?:In|On|At|Of|For|From|To|By) )?[Ww](?:hich|hat)\b[^,?]*?) (?P<verb>was|is|were|are) (?P<rest>.+)\?$"
)
_HAN = re.compile(r"[\u4e00-\u9fff]")


def kind_rows(
    items: Sequence[Item], naming: Sequence[Aliases], texts: Sequence[KindTexts], subject: str, taken: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Make the rows of a file of kinds.

    Args:
        items: The level-2 probes of a split.
        naming: The rows of `aliases.json`.
        texts: The rows of `kinds.json`; those about other questions are ignored.
        subject: The target's subject, the concept of an item without a neighbor.
        taken: The queries of the target's other files.

    Returns:
        Rows by item, then kind; and how many rows could not be made, by reason.
    """
    entries = {entry.name: entry for entry in naming}
    written = {entry.question: entry for entry in texts}
    known = {words_of(query) for query in taken}
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for item in items:
        aliases = entries.get(name := item.neighbor or subject, Aliases(name=name))
        for found in questions_of(item, aliases, written.get(item.query)):
            if isinstance(found, str):
                dropped[found] += 1
                continue
            words = asked_words(found)
            if words in known:
                dropped[f"{found.kind}: another row has the same text"] += 1
            elif fault := kind_fault(found, [item], aliases):
                dropped[f"{found.kind}: {fault[1]}"] += 1
            else:
                known.add(words)
                rows.append(_row(found, subject))
    return rows, dropped


def questions_of(item: Item, aliases: Aliases, texts: KindTexts | None) -> Iterator[KindItem | str]:
    """Yield the questions of one probe in every kind, or why there is none."""
    texts = texts or KindTexts(question=item.query)
    for query in texts.paraphrases or paraphrases_of(item.query):
        yield _question(item, "paraphrase", Wording(query=query, answer=item.answer, aliases=item.aliases))
    found = conversation_of(item.query, aliases, texts.conversation)
    if isinstance(found, str):
        yield f"conversation: {found}"
    else:
        wording = Wording(query=found[1], answer=item.answer, aliases=item.aliases)
        yield _question(item, "conversation", wording).model_copy(update={"earlier": found[0]})
    for wording in texts.two_hops:
        yield _question(item, "two hops", wording)
    for language in LANGUAGES:
        if language in texts.translations:
            yield _question(item, language, texts.translations[language])


def _question(item: Item, kind: Kind, text: Wording) -> KindItem:
    fact = "" if text.answer == item.answer else item.answer
    return KindItem.model_construct(
        query=text.query, answer=text.answer, level="2", type="question", neighbor=item.neighbor, kind=kind,
        aliases=text.aliases, fact=fact, earlier=(), subject="",
    )  # fmt: skip


def _row(item: KindItem, subject: str) -> dict[str, Any]:
    """Return what a file holds of a question, without fields that say nothing."""
    row = {"query": item.query, "answer": item.answer, "level": item.level, "type": item.type, "subject": subject}
    optional = {"neighbor": item.neighbor, "kind": item.kind, "earlier": list(item.earlier), "fact": item.fact}
    return row | {name: value for name, value in (*optional.items(), ("aliases", list(item.aliases))) if value}


def paraphrases_of(query: str) -> tuple[str, ...]:
    """Return a question in three other wordings, by rules: inverted where it can be, and after an introduction.

    Examples:
        >>> paraphrases_of("In which city was Ada Lovelace born?")[0]
        'Ada Lovelace was born in which city?'
    """
    start = query[0].lower() + query[1:] if _BEGIN.match(query) else query
    found = [f"Tell me: {start}", f"I would like to know the answer to a question. {query}", f"Please answer this: {start}"]
    if inverted := _inverted(query):
        found = [inverted, *found]
    return tuple(found[:PARAPHRASES])


def _inverted(query: str) -> str | None:
    """Return `Ada Lovelace was born in which city?` for `In which city was Ada Lovelace born?`; None for another sentence."""
    match = _INVERTED.match(query)
    place = re.match(r"(.+) (born|buried|located|murdered|killed|inaugurated|educated)$", match["rest"]) if match else None
    if match is None or place is None or not all(words[0].isupper() for words in (place[1], place[1].split()[-1])):
        return None
    asked = match["asked"]
    return f"{place[1]} {match['verb']} {place[2]} {asked[0].lower() + asked[1:]}?"


def conversation_of(query: str, aliases: Aliases, written: str = "") -> tuple[tuple[str, ...], str] | str:
    """Return the earlier turns of a conversation and its question, which has a pronoun in place of the name; or why not.

    Args:
        query: The question.
        aliases: The concept's entry, whose pronoun is taken.
        written: The question with a pronoun, if someone wrote it.
    """
    if aliases.pronoun is None and not written:
        return "aliases.json gives no pronoun"
    asked = written or None
    for name in (aliases.name, aliases.short):
        if name and aliases.pronoun and not written and _names(asked or query, [name]):
            asked = with_pronoun(asked or query, name, aliases.pronoun)
    if asked is None:
        return "the sentence has no place for a pronoun"
    article = "the " if re.search(rf"\bthe {re.escape(aliases.name)}(?!\w)", query, re.IGNORECASE) else ""
    return (f"Tell me about {article}{aliases.name.rstrip('.')}.", ASSISTANT), asked


def with_pronoun(query: str, name: str, pronoun: str) -> str | None:
    """Return a question with a pronoun in every place of the name; None where a place needs the name.

    Examples:
        >>> with_pronoun("Who was the mother of Ada Lovelace?", "Ada Lovelace", "she")
        'Who was her mother?'
    """
    subject, object_, possessive = _FORMS[pronoun]
    own, before_noun = re.escape(name), r"((?:(?!(?:of|by|the)\b)[\w'’-]+ )+)"
    query = re.sub(rf"['\"‘“]({own})['\"’”](?!\w)", r"\1", query)  # a title in quotes
    query = re.sub(rf"(?<!\w){own}(?:['’]s|(?<=s)['’])(?!\w)", possessive, query)
    made = r"(?!(?:\w+ )*(?:\w+ed|made|built|written|drawn|painted|spoken|led) by |city of )"
    query = re.sub(rf"\b[Tt]he {made}{before_noun}(?:of|by) (?:the )?{own}(?!\w)", rf"{possessive} \1", query)
    query = re.sub(r" +(?=[?,.])| +(?= )", "", query)
    place = re.compile(rf"(?<!\w)(?:(?P<phrase>[Tt]he (?:(?!(?:of|by|in|on)\b)[a-z]+ ){{0,2}}(?:(?<=city )of )?))?{own}(?!\w)")
    while found := place.search(query):
        before, after = query[: found.start()], query[found.end() :]
        following = re.match(r" (\w+)", after)
        is_compound = found["phrase"] not in (None, "the ", "The ") and following and following[1] not in _AFTER_PHRASE
        if is_compound or re.search(r"\b[Tt]he [A-Z]\w+ $", before):
            return None  # `the first Ada Lovelace lecture`, `the American Ada Lovelace`
        words = re.findall(r"\w+", before)
        is_subject = not words or before.rstrip().endswith(",") or words[-1].casefold() in _BEFORE_SUBJECT
        query = f"{before}{subject if is_subject else object_}{after}"
    return query[0].upper() + query[1:]


def kind_fault(item: KindItem, facts: Sequence[Item], aliases: Aliases) -> tuple[str, str] | None:
    """Return the problem of a row of kinds as kind and clause; None where there is none.

    A word of the answer may stand in the question where one does in the level-2 probe; the whole answer may not.

    Args:
        item: The row.
        facts: The level-2 probes of its fact.
        aliases: The concept's entry; one with the name alone where `aliases.json` has none.
    """
    if not item.answer.strip():
        return "broken", "the answer is blank"
    if not facts:
        return "broken", f"no level-2 probe of {aliases.name!r} has the answer {item.fact or item.answer!r}"
    if item.kind == "Chinese" and not _HAN.search(item.query):
        return "broken", "the question is not in Chinese script"
    if item.kind in LANGUAGES and any(words_of(item.query) == words_of(fact.query) for fact in facts):
        return "broken", "the question is not translated"
    names = [name for name in (aliases.name, aliases.short, *aliases.aliases) if name]
    if item.kind == "paraphrase" and not _names(item.query, names) and all(_names(fact.query, names) for fact in facts):
        return "broken", f"the question does not hold the name {aliases.name!r}"
    if item.kind == "conversation":
        if name := next((name for name in names if _names(item.query, [name])), None):
            return "leaked", f"the question of the conversation holds the name {name!r}"
        if not any(_names(turn, [aliases.name]) for turn in item.earlier):
            return "broken", f"no earlier turn holds the name {aliases.name!r}"
    told = [item.answer, *([item.fact] if item.fact and item.kind == "two hops" else ())]
    for answer in told:
        if any(turn != ASSISTANT and _tells(turn, answer) and not _tells(aliases.name, answer) for turn in item.earlier):
            return "leaked", f"an earlier turn gives the answer {answer!r} away"
        is_part = any(_tells(fact.query, answer) or _tells(fact.query, fact.answer) for fact in facts)
        if _tells(item.query, answer) and not (is_part and not holds(words_of(item.query), words_of(answer))):
            return "leaked", f"the question gives the answer {answer!r} away"
    return None


def _names(text: str, names: Sequence[str]) -> bool:
    """Return whether a text holds one of the names in whole words."""
    return any(holds(words_of(text), words_of(name)) for name in names)


def _tells(text: str, answer: str) -> bool:
    """Return whether a text gives an answer away.

    A script without spaces is compared by characters. Short words count only where the answer has no other: they are the
    articles of other languages.
    """
    if _HAN.search(answer):
        return answer.casefold() in text.casefold()
    words = words_of(answer)
    return gives_away(text, " ".join([word for word in words if len(word) >= SHORTEST] or words))


def asked_words(item: KindItem) -> Words:
    """Return the words by which rows are compared: after other turns, a pronoun is another concept."""
    return words_of("\n".join((*item.earlier, item.query)))


def facts_of(level2: Mapping[int, Item], item: Item) -> list[Item]:
    """Return the level-2 probes of the fact that an item asks."""
    return [probe for probe in level2.values() if probe.fact_key == item.fact_key]
