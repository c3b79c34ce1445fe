"""Paraphrases, questions over two hops and translations written by a server; the checks of `kind_fault` apply to each."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from formless.data.questions.question_kinds import PARAPHRASES, kind_fault, questions_of
from formless.data.rows import LANGUAGES, Aliases, Item, KindTexts, Wording
from formless.data.server import Journal, ReplyError, Server, ServerError, ask_validated, digest, read_object
from formless.progress import WorkProgress


class _Wording(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    query: str
    answer: str


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    paraphrases: list[str]
    two_hops: list[_Wording]
    translations: dict[str, _Wording]


def write_texts(
    server: Server,
    items: Sequence[Item],
    naming: Sequence[Aliases],
    subject: str,
    journal: Journal,
    progress: WorkProgress | None = None,
) -> tuple[list[KindTexts], list[str]]:
    """Ask a server for the texts of level-2 probes. A probe in the journal is not asked again.

    Args:
        server: The server.
        items: The probes.
        naming: The rows of `aliases.json`.
        subject: The target's subject.
        journal: Where the answers are kept.
        progress: Called after each probe, with the probes done and all probes.

    Returns:
        The texts, and for each probe without any the reason.

    Raises:
        ServerError: The server stopped answering; its answers so far are kept.
    """
    entries = {entry.name: entry for entry in naming}
    texts, reasons = [], []
    for number, item in enumerate(items, 1):
        name = item.neighbor or subject
        found = _ask(server, item, entries.get(name, Aliases(name=name)), journal)
        if isinstance(found, str):
            reasons.append(found)
        else:
            texts.append(found)
        if progress:
            progress(number, len(items))
    return texts, reasons


def _ask(server: Server, item: Item, aliases: Aliases, journal: Journal) -> KindTexts | str:
    def checked(reply: str) -> KindTexts:
        texts = _texts(item, read_object(reply, _Reply))
        if faults := text_faults(item, aliases, texts):
            raise ValueError("; ".join(faults[:5]))
        return texts

    key = digest(server.model, "kinds", item.query, item.answer, item.neighbor)
    known = journal.get(key) or {}
    if isinstance(known.get("dropped"), str):
        return str(known["dropped"])
    try:
        if not text_faults(item, aliases, texts := KindTexts.model_validate(known.get("texts"))):
            return texts
    except ValidationError:  # not in the journal yet, or the line was changed by hand
        pass
    try:
        texts = ask_validated(server, _prompt(item), checked)
    except ReplyError as error:
        journal.add(key, dropped=str(error.remedy))
        return str(error.remedy)
    except ServerError as error:
        raise ServerError(error.what, where=error.where, remedy=f"{error.remedy}; finished rows are kept") from None
    journal.add(key, texts=texts.model_dump())
    return texts


def _texts(item: Item, reply: _Reply) -> KindTexts:
    """Return a reply as a row of `kinds.json`.

    Raises:
        ValueError: A part is missing, or does not fit the row.
    """
    if len(reply.paraphrases) != PARAPHRASES:
        raise ValueError(f"there must be {PARAPHRASES} paraphrases, not {len(reply.paraphrases)}")
    if set(reply.translations) != set(LANGUAGES):
        raise ValueError(f"the translations must be {', '.join(LANGUAGES)}")
    return KindTexts(
        question=item.query,
        paraphrases=tuple(text.strip() for text in reply.paraphrases),
        two_hops=tuple(Wording(**found.model_dump()) for found in reply.two_hops),
        translations={language: Wording(**reply.translations[language].model_dump()) for language in LANGUAGES},
    )


def text_faults(item: Item, aliases: Aliases, texts: KindTexts) -> list[str]:
    """Return what is wrong with the texts of a probe, a clause each; empty where nothing is."""
    found = [question for question in questions_of(item, aliases, texts) if not isinstance(question, str)]
    faults = ((question, kind_fault(question, [item], aliases)) for question in found if question.kind != "conversation")
    return [f"{question.query!r}: {fault[1]}" for question, fault in faults if fault]


def _prompt(item: Item) -> str:
    return (
        f"Here is a question with its answer.\n\nQuestion: {item.query}\nAnswer: {item.answer}\n\nWrite {PARAPHRASES} "
        "paraphrases of it that keep every name and the same answer; one question whose answer is reached through this answer "
        "and is another one, without naming this answer; and translations of question and answer into "
        f"{', '.join(LANGUAGES)}, names in Chinese script in Chinese. No question may hold its answer.\n\n"
        'Reply with one JSON object and nothing else: {"paraphrases": ["...", "...", "..."], "two_hops": [{"query": "...", '
        '"answer": "..."}], "translations": {"German": {"query": "...", "answer": "..."}, "French": {...}, "Spanish": {...}, '
        '"Chinese": {...}}}'
    )
