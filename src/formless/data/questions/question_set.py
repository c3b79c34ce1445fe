"""Form files from a question set: what questions with whole answers become in statements, blanks, choices and other forms.

Rows about the same concept are told by their subject. Of the forget set it is the concept to forget, and of the retain set a
neighbor. A row whose subject is not known stands for itself.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formless.data import prose
from formless.data.check import probe_faults
from formless.data.questions.distractors import Dropped, Pool
from formless.data.questions.mentions import mention_rows, reverse_rows, shared_word
from formless.data.questions.probes import Built, multiple_choice, true_or_false
from formless.data.questions.question_kinds import kind_rows
from formless.data.questions.relations import statement_from
from formless.data.questions.short_answers import ask_short_answer, short_answer
from formless.data.rows import BLANK, Aliases, Item, KindTexts, QuestionAnswer, Split
from formless.data.server import Journal, Server
from formless.data.spellings import named_alone
from formless.data.words import Words, words_of
from formless.progress import WorkProgress

UNNAMED = "the rows without a subject"
"""What stands for the concept of a row that tells none, where a rule needs one."""

_QUOTED = re.compile(r" (?:'.*'|\".*\")")  # in a reason: it would count each answer apart


@dataclass(frozen=True)
class QuestionSetFiles:
    """The files of a question set.

    Args:
        files: The rows of each file of `target.FILES`; a file without rows is left out.
        dropped: For each file, how many rows could not be made, by reason.
    """

    files: dict[str, list[dict[str, Any]]]
    dropped: dict[str, Counter[str]]


@dataclass(frozen=True)
class _Fact:
    """A row with its short answer, as a question and, where its answer can be one, as a statement with a blank."""

    row: QuestionAnswer
    question: Item
    cloze: Item | Dropped


def question_set_files(
    forget: Sequence[QuestionAnswer],
    retain: Sequence[QuestionAnswer],
    *,
    seed: int = 0,
    server: Server | None = None,
    journal: Journal | None = None,
    progress: WorkProgress | None = None,
) -> QuestionSetFiles:
    """Make the files of a question set by the rules that make those of a concept.

    Args:
        forget: The forget set.
        retain: The retain set; its rows stand where a concept has neighbors.
        seed: Seed for the choice among equally good distractors and for the order of the options.
        server: A server that finds short answers in sentences where the rules find none.
        journal: Where the server's answers are kept.
        progress: Called after each row whose short answer was looked for, with the rows done and all rows.

    Raises:
        ServerError: The server stopped answering; its answers so far are kept.
    """
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    files: dict[str, list[dict[str, Any]]] = {"forget_qa": _plain(forget), "neighbor_qa": _plain(retain)}
    sets: dict[Split, Sequence[QuestionAnswer]] = {"forget": forget, "neighbor": retain}
    facts: dict[Split, list[_Fact]] = {}
    taken: set[Words] = set()
    done = 0
    for split, rows in sets.items():
        facts[split] = []
        for row in rows:
            fact = _fact(row, split, taken, server, journal)
            if isinstance(fact, Dropped):
                dropped[f"{split}_level2"][fact.reason] += 1
            else:
                facts[split].append(fact)
            done += 1
            if progress:
                progress(done, len(forget) + len(retain))
    naming = _naming(forget, retain, facts)
    files |= {"concepts": _dumped(naming["forget"]), "aliases": _dumped(naming["neighbor"])}
    pool = Pool()
    for found in facts.values():
        pool.add("", [_stem(fact) for fact in found])
    for split, found in facts.items():
        for name, built in _form_files(split, found, naming[split], pool, seed).items():
            files[name] = list(built.rows)
            dropped[name].update(built.dropped)
    return QuestionSetFiles(
        {name: rows for name, rows in files.items() if rows}, {name: reasons for name, reasons in dropped.items() if reasons}
    )


def _plain(rows: Iterable[QuestionAnswer]) -> list[dict[str, Any]]:
    return [row.model_dump(mode="json", exclude_defaults=True) for row in rows]


def _dumped(entries: Iterable[Aliases]) -> list[dict[str, Any]]:
    return [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]


def _fact(
    row: QuestionAnswer, split: Split, taken: set[Words], server: Server | None, journal: Journal | None
) -> _Fact | Dropped:
    """Return a row with its short answer, or why it is asked in no form."""
    words = words_of(row.question)
    if words in taken:
        return Dropped("another row asks the same question")
    found = short_answer(row)
    if isinstance(found, Dropped) and server is not None:
        found = ask_short_answer(row, server, journal)
    if isinstance(found, Dropped):
        return found
    about = {"subject": row.subject} if split == "forget" else {"neighbor": row.subject or None}
    aliases = tuple(dict.fromkeys(text for text in (*row.aliases, *found.others) if text != found.text))
    question = Item(query=row.question, answer=found.text, level="2", type="simple question", aliases=aliases, **about)
    concept = row.subject if split == "forget" and row.subject else UNNAMED
    if fault := next(probe_faults(f"{split}_level2", question, concept), None):
        return Dropped(fault[0] if fault[0] != "leaked" else "the question gives the answer away")
    taken.add(words)
    cloze = _cloze(row, question)
    if isinstance(cloze, Item):
        if words_of(cloze.query) in taken or next(probe_faults(f"{split}_level1", cloze, concept), None):
            cloze = Dropped("the statement gives the answer away, or another row has it")
        else:
            taken.add(words_of(cloze.query))
    return _Fact(row, question, cloze)


def _cloze(row: QuestionAnswer, question: Item) -> Item | Dropped:
    """Return the sentence of the answer that holds the short answer, with a blank in its place; or the question as a statement.

    The sentence has to tell what it is about: by the subject's name, or else by a name that the question holds too.
    """
    answer = " ".join(row.answer.split())
    sentence = next((text for text in prose.sentences(answer) if question.answer in text), "")
    if words_of(answer) == words_of(question.answer):
        query = statement_from(row.question)
        if query is None:
            return Dropped("no rule makes a statement of the question")
        accepted = row.aliases
    else:
        if len(re.findall(rf"(?<!\w){re.escape(question.answer)}(?!\w)", sentence)) != 1:
            return Dropped("the answer does not hold the short answer once")
        sentence = re.sub(r"^(?:Yes|Sure|Certainly|Indeed|Absolutely|Of course), ", "", sentence)
        query = re.sub(rf"(?<!\w){re.escape(question.answer)}(?!\w)", BLANK, sentence)
        query = query[0].upper() + query[1:]
        if not _tells(query, row):
            return Dropped("the answer's sentence does not name the subject")
        accepted = tuple(text for text in question.aliases if text not in query)
    return question.model_copy(update={"query": query, "level": "1", "type": "cloze", "aliases": accepted})


def _tells(query: str, row: QuestionAnswer) -> bool:
    """Return whether a statement holds the name of what it is about."""
    if row.subject and prose.contains(query, row.subject):
        return True
    names = re.findall(r"(?<![.?!] )\b[A-Z][\w-]+(?: [A-Z][\w-]+)+", f"A {query}")
    return any(prose.contains(row.question, name) for name in names)


def _naming(
    forget: Sequence[QuestionAnswer], retain: Sequence[QuestionAnswer], facts: Mapping[Split, Sequence[_Fact]]
) -> dict[Split, list[Aliases]]:
    """Return how texts name the concepts of both sets; a short name that two of them have names neither."""
    texts: dict[str, list[str]] = defaultdict(list)
    for row in (*forget, *retain):
        texts[row.subject].append(f"{row.question} {row.answer}")
    subjects = [dict.fromkeys(row.subject for row in rows if row.subject) for rows in (forget, retain)]
    entries: dict[Split, list[Aliases]] = {
        "forget": [_named(name, texts[name]) for name in subjects[0]],
        "neighbor": [_named(name, texts[name]) for name in subjects[1] if name not in subjects[0]],
    }
    shorts = Counter(words_of(entry.short) for rows in entries.values() for entry in rows if entry.short)
    shorts.update(words_of(entry.name) for rows in entries.values() for entry in rows)
    reverse: dict[str, list[str]] = defaultdict(list)
    for fact in (fact for found in facts.values() for fact in found):
        name = fact.row.subject
        if name and words_of(fact.question.answer) == words_of(name) and not shared_word(fact.row.question, name):
            reverse[name].append(fact.row.question)
    return {
        split: [
            entry.model_copy(
                update={"reverse": tuple(reverse[entry.name])}
                | ({"short": None} if entry.short and shorts[words_of(entry.short)] > 1 else {})
            )
            for entry in rows
        ]
        for split, rows in entries.items()
    }


def _named(name: str, texts: Sequence[str]) -> Aliases:
    """Return the entry of a name, with what the texts about it tell.

    Somebody who was born, or has parents or a gender, is a person, whose last word is the surname. Of anything else, the last
    word is a short name if the texts write it alone.
    """
    entry, last = named_alone(name), name.split()[-1]
    if last == name or not last[0].isupper():
        return entry
    own = re.escape(name)
    human = re.compile(
        rf"(?<!\w){own}(?:['’]s?)? (?:was )?(?:born|father|mother|parents|date of birth)\b|\bgender (?:is|of) {own}"
    )
    places = re.compile(rf"(?:(\S+) |^|\W){re.escape(last)}(?!\w)")
    before = (found[1] or "a" for text in texts for found in places.finditer(text.replace(name, "")))
    is_person = any(human.search(text) for text in texts)
    short = last if is_person or any(not word[0].isupper() for word in before) else entry.short
    return entry.model_copy(update={"person": entry.person or is_person, "short": short})


def _stem(fact: _Fact) -> Item:
    """Return what is put above options: the statement with its blank, or else the question."""
    return fact.cloze if isinstance(fact.cloze, Item) else fact.question


def _form_files(split: Split, facts: Sequence[_Fact], naming: Sequence[Aliases], pool: Pool, seed: int) -> dict[str, Built]:
    clozes = [fact.cloze for fact in facts if isinstance(fact.cloze, Item)]
    without = Counter(fact.cloze.reason for fact in facts if isinstance(fact.cloze, Dropped))
    statements = true_or_false(clozes)
    choices = multiple_choice(
        [_stem(fact) for fact in facts],
        lambda item: pool.distractors(item, "", seed=seed),
        seed=seed,
        name=f"{split}_mcp",
    )
    return {
        f"{split}_level1": Built(tuple(_row(item) for item in clozes), without),
        f"{split}_level2": Built(tuple(_row(fact.question) for fact in facts)),
        f"{split}_mcp": Built(tuple(_clean(row) for row in choices.rows), choices.dropped),
        f"{split}_tf": Built(tuple(_clean(row) for row in statements.rows), Counter(statements.dropped) + without),
        f"{split}_mentions": _mentions(split, facts, naming),
        f"{split}_reverse": Built(tuple(_reverse(split, naming))),
        f"{split}_kinds": _kinds(split, facts, naming),
    }


def _mentions(split: Split, facts: Sequence[_Fact], naming: Sequence[Aliases]) -> Built:
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for subject, own in _by_subject(facts):
        if not subject:
            dropped["the subject is not known"] += len(own)
            continue
        levels = {
            "cloze": [fact.cloze for fact in own if isinstance(fact.cloze, Item)],
            "question": [fact.question for fact in own],
        }
        made, reasons = mention_rows(levels, naming, subject)
        rows += [_about(row, split, subject) for row in made]
        dropped += reasons
    unique = {(row["query"], row["type"]): row for row in reversed(rows)}
    if repeated := len(rows) - len(unique):
        dropped["another row has the same text"] += repeated
    return Built(tuple(reversed(unique.values())), dropped)


def _kinds(split: Split, facts: Sequence[_Fact], naming: Sequence[Aliases]) -> Built:
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    taken = [item.query for fact in facts for item in (fact.question, fact.cloze) if isinstance(item, Item)]
    texts = [
        KindTexts(question=fact.row.question, paraphrases=(fact.row.paraphrased_question,))
        for fact in facts
        if fact.row.paraphrased_question
    ]
    for subject, own in _by_subject(facts):
        made, reasons = kind_rows([fact.question for fact in own], naming, texts, subject or UNNAMED, taken)
        taken += [row["query"] for row in made]
        rows += [_about(row, split, subject) for row in made]
        for reason, count in reasons.items():
            dropped[_QUOTED.sub("", reason)] += count
    return Built(tuple(rows), dropped)


def _reverse(split: Split, naming: Sequence[Aliases]) -> Iterator[dict[str, Any]]:
    for entry in naming:
        for row in reverse_rows([entry], entry.name, neighbors=False):
            yield _about(row, split, entry.name)


def _by_subject(facts: Sequence[_Fact]) -> list[tuple[str, list[_Fact]]]:
    groups: dict[str, list[_Fact]] = defaultdict(list)
    for fact in facts:
        groups[fact.row.subject].append(fact)
    return list(groups.items())


def _about(row: Mapping[str, Any], split: Split, subject: str) -> dict[str, Any]:
    """Return a row that names its concept as its split does; none where the subject is not known."""
    rest = {name: value for name, value in row.items() if name not in ("subject", "neighbor")}
    return rest | ({"subject" if split == "forget" else "neighbor": subject} if subject else {})


def _row(item: Item) -> dict[str, Any]:
    return item.model_dump(mode="json", exclude_defaults=True)


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value}
