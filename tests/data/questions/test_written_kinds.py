"""Texts of kinds from a server: what it is asked, what is refused, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from formless.data.questions.probes import JOURNAL, build_forms
from formless.data.questions.written_kinds import write_texts
from formless.data.rows import Aliases, Item
from formless.data.server import Journal, Message, Server, ServerError

ADA = Aliases(name="Ada Lovelace", person=True, pronoun="she", short="Lovelace")
BORN = Item(query="In which city was Ada Lovelace born?", answer="London", level="2")
GOOD: dict[str, Any] = {
    "paraphrases": [f"{start} the birthplace of Ada Lovelace?" for start in ("Which city is", "What is", "Where is")],
    "two_hops": [{"query": "Which river flows through the city where Ada Lovelace was born?", "answer": "Thames"}],
    "translations": {
        "German": {"query": "In welcher Stadt wurde Ada Lovelace geboren?", "answer": "London"},
        "French": {"query": "Dans quelle ville Ada Lovelace est-elle née ?", "answer": "Londres"},
        "Spanish": {"query": "¿En qué ciudad nació Ada Lovelace?", "answer": "Londres"},
        "Chinese": {"query": "阿达·洛芙莱斯出生在哪座城市？", "answer": "伦敦"},
    },
}
LEAK = GOOD | {"two_hops": [{"query": "Which river flows through London?", "answer": "Thames"}]}
ENGLISH = GOOD | {"translations": GOOD["translations"] | {"Chinese": {"query": "Where was she born?", "answer": "伦敦"}}}


class Fake:
    """A server that gives prepared replies."""

    model = "fake"

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    def ask(self, messages: Sequence[Message]) -> str:
        self.asked.append(messages[-1]["content"])
        if not self.replies:
            raise ServerError("the server is gone", where="fake", remedy="start it")
        return json.dumps(self.replies.pop(0))


def server(*replies: Any) -> Server:
    return cast(Server, Fake(*replies))


def asked(found: Server) -> list[str]:
    return cast(Fake, found).asked


def test_a_reply_becomes_texts_and_is_not_asked_again(tmp_path: Path) -> None:
    found, journal, shown = server(GOOD), Journal(tmp_path / "j"), []
    (texts,), reasons = write_texts(
        found, [BORN], [ADA], "Ada Lovelace", journal, lambda done, total: shown.append((done, total))
    )
    assert (texts.question, texts.paraphrases[0]) == (BORN.query, "Which city is the birthplace of Ada Lovelace?")
    assert texts.translations["Chinese"].answer == "伦敦"
    assert (reasons, shown) == ([], [(1, 1)])
    assert "Question: In which city was Ada Lovelace born?\nAnswer: London" in asked(found)[0]
    again = server()
    assert write_texts(again, [BORN], [ADA], "Ada Lovelace", Journal(tmp_path / "j")) == ([texts], [])
    assert asked(again) == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (LEAK, "'Which river flows through London?': the question gives the answer 'London' away"),
        (ENGLISH, "'Where was she born?': the question is not in Chinese script"),
        (GOOD | {"paraphrases": ["Where is Ada Lovelace from?"]}, "there must be 3 paraphrases, not 1"),
        (GOOD | {"translations": {}}, "the translations must be German, French, Spanish, Chinese"),
        (GOOD | {"two_hops": [{"query": "", "answer": "Thames"}]}, "query"),
        ({"paraphrases": []}, "two_hops: Field required"),
    ],
)  # fmt: skip
def test_a_reply_that_fails_a_check_goes_back_with_the_reason(tmp_path: Path, reply: Any, reason: str) -> None:
    found = server(reply, GOOD)
    texts, reasons = write_texts(found, [BORN], [ADA], "Ada Lovelace", Journal(tmp_path / "j"))
    assert len(texts) == 1
    assert reasons == []
    assert reason in asked(found)[1]
    found = server(reply, reply, reply)
    texts, reasons = write_texts(found, [BORN], [ADA], "Ada Lovelace", Journal(tmp_path / "k"))
    assert texts == []
    assert reason in reasons[0]
    assert write_texts(server(), [BORN], [ADA], "Ada Lovelace", Journal(tmp_path / "k")) == ([], reasons)


def test_a_server_that_is_gone_leaves_what_is_done(tmp_path: Path) -> None:
    died = Item(query="In which city did Ada Lovelace die?", answer="London")
    with pytest.raises(ServerError, match="finished rows are kept"):
        write_texts(server(GOOD), [BORN, died], [ADA], "Ada Lovelace", Journal(tmp_path / "j"))
    assert len(write_texts(server(), [BORN], [ADA], "Ada Lovelace", Journal(tmp_path / "j"))[0]) == 1


def test_the_rules_step_in_where_the_server_has_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "1_Ada_Lovelace"
    folder.mkdir()
    level2 = [{"query": BORN.query, "answer": "London"}, {"query": "Who taught Ada Lovelace?", "answer": "Somerville"}]
    files: dict[str, list[dict[str, Any]]] = {"forget_level1": [{"query": "Ada Lovelace was born in ___.", "answer": "London"}],
             "forget_level2": level2, "aliases": [ADA.model_dump(exclude_none=True)]}  # fmt: skip
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    done = build_forms(tmp_path, forms=["kinds"], server=server(GOOD, *[GOOD | {"paraphrases": []}] * 3))[
        "1_Ada_Lovelace/forget_kinds"
    ]
    kinds = [row["kind"] for row in done.rows]
    assert (kinds.count("paraphrase"), kinds.count("conversation"), kinds.count("two hops")) == (6, 2, 1)
    assert [reason.partition(":")[0] for reason in done.dropped] == ["no text from the server"]
    assert not (folder / JOURNAL).exists()
