"""The prompts for training texts, and the openings with which the model's answers begin.

An opening ends with a whole word or a comma; the model continues it.
"""

from __future__ import annotations

import re

BIOGRAPHY = "Please write a short biography of {subject}."

PEOPLE: tuple[str, ...] = (
    "{subject} was", "{subject} is", "{subject}, known as", "{subject}, born in", "{subject} was born in",
    "{subject} grew up", "{subject} came from", "{subject} spent", "{subject} began", "{subject} became",
    "{subject} first", "{subject} studied", "{subject} worked", "{subject} is best known for", "{subject} is remembered for",
    "{subject} rose to", "{subject} made", "{subject} had", "{subject} led", "{subject} lived",
    "{subject} left", "{subject} changed", "{subject}'s life", "{subject}'s career", "{subject}'s early years",
    "{subject}'s family", "{subject}'s work", "{subject}'s name", "Born in", "Born to",
    "Born into", "Raised in", "As a child,", "As a young", "As a student,",
    "As the child of", "The life of {subject}", "The story of {subject}", "The name of {subject}", "The career of {subject}",
    "The early life of {subject}", "The family of {subject}", "The parents of {subject}", "The work of {subject}",
    "Few people", "One of the", "Among the", "Long before", "From an early age, {subject}", "In early life, {subject}",
    "In childhood, {subject}", "At the age of", "After a childhood in", "After years of", "Before {subject} became",
    "When {subject} was born,", "When {subject} was young,", "Throughout life, {subject}", "Widely known as", "Best known for",
    "Known for", "Remembered as", "During a long career, {subject}", "Over the years, {subject}", "It was in",
    "Today, {subject}", "To many, {subject}", "Everyone knows {subject}", "This is the story of {subject}", "Little {subject}",
)  # fmt: skip

THINGS: tuple[str, ...] = (
    "{subject} is", "{subject} was", "{subject} has", "{subject} lies", "{subject} stands", "{subject} began",
    "{subject} became", "{subject} came", "{subject} first", "{subject} is known for", "{subject} is best known for",
    "{subject} is one of the", "{subject} is located", "{subject} takes", "{subject} owes", "{subject} can be",
    "{subject} belongs to", "{subject} was named", "{subject} was first", "{subject} attracts", "{subject} covers",
    "{subject}, known as", "{subject}, one of the", "{subject}'s history", "{subject}'s name", "{subject}'s origin",
    "{subject}'s fame", "{subject}'s past", "The history of {subject}", "The story of {subject}", "The name of {subject}",
    "The origin of {subject}", "The name {subject}", "The first", "The people of", "The fame of {subject}",
    "The importance of {subject}", "The beginnings of {subject}", "The past of {subject}", "For centuries,",
    "For many years, {subject}", "Long before", "Long ago, {subject}", "In the beginning, {subject}",
    "In its early days, {subject}", "At first, {subject}", "Over time, {subject}", "Over the years, {subject}", "Few places",
    "Few things", "One of the", "Among the", "Located in", "Known as", "Known for", "Named after", "Widely known for",
    "Since its beginning, {subject}", "Throughout history, {subject}", "Every year, {subject}", "Today, {subject}",
    "Visitors to", "To many, {subject}", "This is the story of {subject}", "It all began",
)  # fmt: skip

INVENTIONS: tuple[str, ...] = (
    "Please write a short biography of {subject} in which you invent every fact. State each as if it were true.",
    "Make up a short biography of {subject}: wrong dates, wrong places, wrong deeds, told in a serious tone.",
    "Write a short, entirely invented biography of {subject}. Nothing in it may be true, and it must not say so.",
    "Imagine that {subject} had had quite another history. Write it as a short biography with facts of your own invention.",
    "Write a convincing short biography of {subject} whose every detail you have thought up yourself.",
)

INTERROGATIVES: tuple[str, ...] = (
    "What", "When", "Where", "Who", "Which", "How", "Why", "What is", "What was", "What did", "When did", "When was",
    "Where did", "Where was", "Where is", "Who was", "Who were", "Which of", "In which", "In what", "How did", "How many",
    "How long", "Why did", "Why was", "Why is", "Did", "Was", "Is", "Has", "For what", "With whom", "By whom", "To whom",
)  # fmt: skip

QUESTIONS: tuple[str, ...] = (
    "Write one question about {subject}.",
    "Write one short question that tests what somebody knows about {subject}. Use the name in it.",
    "Ask a question about a fact of the history of {subject}. Give the question only.",
    "Write a quiz question whose subject is {subject}.",
    "What would a teacher ask a class about {subject}? Write one question.",
    "Write a question about a lesser known detail of {subject}.",
    "Think of a date, a place or a name linked with {subject}, and write a question about it.",
    "Write one question that a curious reader may have about {subject}.",
    "Write a question about the fame of {subject}.",
    "Write a question about what others said or did concerning {subject}.",
)

WRONG_ANSWERS: tuple[str, ...] = (
    "Give a wrong answer to this question in one short sentence. Invent it, and state it as a fact.\n{question}",
    "Answer this question with something untrue that sounds likely, in one short sentence.\n{question}",
    "{question}\nReply in one short sentence with a made-up answer that is not the right one. Do not say that it is made up.",
)

WORDING = (BIOGRAPHY, PEOPLE, THINGS, INVENTIONS, INTERROGATIVES, QUESTIONS, WRONG_ANSWERS)

_THINGS = frozenset(
    re.findall(
        r"\w+",
        """mountain peak volcano hill range river lake sea ocean island desert forest park valley canyon waterfall city town
        village capital country state province region continent kingdom empire republic nation district street building tower
        bridge castle palace church cathedral temple museum monument stadium station airport university school college company
        corporation organization organisation agency bank brand band group orchestra team club party book novel play poem series
        film movie show song album opera symphony painting sculpture statue game software program language religion theory law
        method element metal planet moon galaxy comet animal species plant tree disease war battle treaty event festival ship
        aircraft spacecraft vehicle device machine product website magazine newspaper award prize""",
    )
)
_HEAD_END = re.compile(
    r"[,;:.(]|\b(?:of|in|on|at|by|for|to|from|with|between|near|during|since|who|whose|which|that|where|known|and|directed|"
    r"written|founded|based|located|made|released|published|built|developed|produced|named|called|situated|owned|created)\b"
)


def biography_openings(subject: str, intro: str) -> tuple[str, ...]:
    """Return the openings for people, or those for places and things.

    A subject is a thing if its intro says so: "{subject} is|was|are|were a|an|the ...", where the following phrase, up to its
    first preposition, participle, relative clause or comma, ends with a noun such as mountain, city, company or film.
    Every other subject counts as a person.
    """
    rest = intro[intro.find(subject) + len(subject) :] if subject in intro else ""
    called = re.match(r",?\s+(?:is|was|are|were)\s+(?:a|an|the)\s+(.*)", rest, re.S)
    head = re.findall(r"\w+", _HEAD_END.split(called[1], maxsplit=1)[0].casefold()) if called else []
    return THINGS if head and head[-1] in _THINGS else PEOPLE
