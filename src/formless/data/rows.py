"""The rows of a target's files, and what their fields may hold."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from formless.data.entries import hidden_character

BLANK = "___"
MAX_CHOICES = 10

Split = Literal["forget", "neighbor"]
"""What a probe is about: the concept to forget, or a related concept to keep."""

SPLITS: tuple[Split, ...] = get_args(Split)

Mention = Literal[
    "full name", "lower case", "short name", "initial and surname", "alias", "misspelling", "possessive", "other spelling",
    "description",
]  # fmt: skip
"""How a probe names its concept; `other spelling` is that of another script or language."""

MENTIONS: tuple[Mention, ...] = get_args(Mention)

Language = Literal["German", "French", "Spanish", "Chinese"]
"""A language that questions are translated into."""

LANGUAGES: tuple[Language, ...] = get_args(Language)

Kind = Literal["paraphrase", "conversation", "two hops", "German", "French", "Spanish", "Chinese"]
"""What a question beside the seven forms is."""

KINDS: tuple[Kind, ...] = get_args(Kind)


def _without_hidden(name: str) -> str:
    if found := hidden_character(name):
        raise PydanticCustomError("hidden", f"the name holds the invisible or control character {found}; remove it")
    return name


Name = Annotated[str, AfterValidator(_without_hidden)]
"""A name without invisible and control characters, which would make two spellings of one name."""


class Row(BaseModel):
    """A row of any file; fields that the format does not name are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Item(Row):
    """A probe: a question and its answer.

    Args:
        aliases: Other answers that count as right when a model writes them.
        fact: The fact that it asks, as the answer of its level-1 or level-2 probe says it; the answer unless given.
    """

    query: str = Field(min_length=1)
    answer: str
    level: str = ""
    type: str = ""
    subject: Name = ""
    neighbor: Name | None = None
    aliases: tuple[Name, ...] = ()
    fact: str = ""

    @property
    def fact_key(self) -> str:
        """What items that ask the same fact have in common: the neighbor, if any, and the fact."""
        return ": ".join(" ".join(part.casefold().split()) for part in (self.neighbor, self.fact or self.answer) if part)


class Cloze(Item):
    """A level-1 probe: a statement with a blank.

    About one in forty level-1 probes of RWKU is a plain question; these are accepted. Any other query without a blank is an
    error.
    """

    @model_validator(mode="after")
    def _has_blank(self) -> Cloze:
        if BLANK not in self.query and not self.query.rstrip().endswith("?"):
            raise PydanticCustomError("no_blank", "query: a cloze needs a blank, three underscores")
        return self


class MentionItem(Item):
    """A level-1 or level-2 probe that names its concept by one mention.

    Args:
        mention: How the query names the concept.
        named: The words of the query that name it.
        type: `cloze` or `question`.
    """

    type: Literal["cloze", "question"]
    mention: Mention
    named: str = Field(min_length=1)

    @model_validator(mode="after")
    def _has_blank(self) -> MentionItem:
        if self.type == "cloze" and BLANK not in self.query:
            raise PydanticCustomError("no_blank", "query: a cloze needs a blank, three underscores")
        return self


class KindItem(Item):
    """A question that asks a fact of a level-2 probe in another way.

    Args:
        kind: The way.
        earlier: Of a conversation, what user and assistant said before, in turn; empty for every other kind.
        fact: The answer of the level-2 probe, where this question has another answer.
    """

    kind: Kind
    earlier: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_turns(self) -> KindItem:
        if (self.kind == "conversation") != bool(self.earlier):
            raise PydanticCustomError("earlier", "earlier: a conversation needs earlier turns, and nothing else has any")
        if len(self.earlier) % 2:
            raise PydanticCustomError("earlier", "earlier: the turns are the user's and the assistant's in turn")
        return self


class Reverse(Item):
    """A question that gives a fact and asks for the concept; each is a fact of its own.

    Args:
        answer: The concept's full name.
        aliases: Other names that count as right.
    """

    @property
    def fact_key(self) -> str:
        """The question: its answer is the same in every row."""
        return " ".join(self.query.casefold().split())


class Aliases(Row):
    """How texts name a concept, the subject or a neighbor; unknown fields are errors.

    Args:
        name: The full name, as the other files spell it.
        person: Whether it is a person, whose given names have initials.
        short: The surname or another short name that nobody else of the file has.
        aliases: Other names and titles, with their article if they need one.
        spellings: Spelling by language, e.g. `{"ru": "Альберт Эйнштейн"}`.
        descriptions: Noun phrases with their article, such as `the author of Hamlet`, that hold no word of the name and fit
            nobody else.
        reverse: Questions whose answer is the concept, which hold no word of its name.
        pronoun: The pronoun that stands for it in a conversation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(min_length=1)
    person: bool = False
    short: Name | None = None
    aliases: tuple[Name, ...] = ()
    spellings: dict[str, Name] = {}
    descriptions: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()
    pronoun: Literal["he", "she", "it", "they"] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The full name, the short one and the aliases, as far as there are any."""
        return tuple(name for name in (self.name, self.short, *self.aliases) if name)


class Wording(Row):
    """A question with its answer, for a row of `kinds.json`; unknown fields are errors.

    Args:
        aliases: Other right answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    aliases: tuple[Name, ...] = ()


class KindTexts(Row):
    """Other ways to ask a level-2 probe, written by hand; unknown fields are errors.

    Args:
        question: The level-2 probe, as its file spells it.
        paraphrases: The same question in other words.
        conversation: The question with a pronoun in place of the name, where the rules find no good one.
        two_hops: Questions whose answer is reached through another concept or another answer.
        translations: The question and its answer in `LANGUAGES`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    paraphrases: tuple[str, ...] = ()
    conversation: str = ""
    two_hops: tuple[Wording, ...] = ()
    translations: dict[Language, Wording] = {}


class Intro(Row):
    """A sentence that introduces the subject."""

    target: Name
    intro: str


class Question(Row):
    """MMLU: a question with choices and worked examples; the examples have no task."""

    task: str = ""
    question: str
    choices: tuple[str, ...]
    answer: int
    examples: tuple[Question, ...] = ()

    @model_validator(mode="after")
    def _has_a_right_choice(self) -> Question:
        if not 2 <= len(self.choices) <= MAX_CHOICES:
            raise PydanticCustomError("choices", "choices: two to ten are needed")
        if not 0 <= self.answer < len(self.choices):
            raise PydanticCustomError("answer", "answer: give the index of a choice, counted from 0")
        return self


class Reasoning(Row):
    """BBH: a question, and the chain-of-thought examples that precede it."""

    task: str
    question: str
    answer: str
    cot: str


class Choices(Row):
    """Choices of TruthfulQA with their labels: 1 for a true choice, 0 for a false one."""

    choices: tuple[str, ...] = Field(min_length=1)
    labels: tuple[int, ...]

    @model_validator(mode="after")
    def _labels_all(self) -> Choices:
        if len(self.labels) != len(self.choices):
            raise PydanticCustomError("labels", "every choice needs one label, 1 if it is true and 0 if not")
        return self


class Truthful(Row):
    """TruthfulQA: a question with the choices of MC1 and of MC2."""

    question: str
    mc1_targets: Choices
    mc2_targets: Choices


class Trivia(Row):
    """TriviaQA: a question with every accepted answer."""

    question: str
    answers: tuple[str, ...] = Field(min_length=1)


class Instruction(Row):
    """An instruction, with the output to train on where there is one."""

    instruction: str
    input: str = ""
    output: str = ""


class Passage(Row):
    """A text: a Wikipedia passage, a biography written by the model, or a text for membership inference."""

    text: str


class Preference(Row):
    """A prompt with two responses: the chosen one, then the rejected one."""

    prompt: str
    response: tuple[str, str]


class QuestionAnswer(Row):
    """A question of a question set with its whole answer, as TOFU has them; the answer may be a sentence.

    Args:
        aliases: Other answers that count as right when a model writes them.
        subject: The concept that it is about; empty where it is not told.
        paraphrased_question: The question in other words; empty where there is none.
        paraphrased_answer: The answer in other words; empty where there is none.
        perturbed_answer: Wrong answers, worded as `paraphrased_answer`, or as the answer where there is none.
    """

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    subject: Name = ""
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answer: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class Verbatim(Row):
    """A passage in two parts: a model that memorized it continues the first by the second (MUSE, verbatim memorization)."""

    prompt: str = Field(min_length=1)
    gt: str = Field(min_length=1)
