"""What an edit of names keeps in place beside the neighbors: well-known names, forenames, and questions about other things."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from formless.data.questions.gazetteers import SMALL_WORDS
from formless.data.questions.mentions import bundled_names
from formless.data.rows import Aliases
from formless.data.words import words_of
from formless.methods.keys.names import Names, folded

ABOUT = ("What is {} known for?", "When was {} born?", "Where did {} live?", "Tell me about {}.")
"""Questions about each neighbor. No item of the sample set asks in these words."""

OPENINGS = ("{} was", "{} is", "The life of {}")
"""How texts about others begin by which an edit is measured. As plain text; no kept key is read in them."""

MOST_OPENINGS, FEWEST_REFERENCES = 24, 8

SHORTEST = 4
"""The fewest letters of a word by which an answer shares a name with a target."""

GENERAL: tuple[tuple[str, str], ...] = (
    ("What is the capital of Australia?", "Canberra"),
    ("Who painted The Scream?", "Edvard Munch"),
    ("Where was the author of Hamlet born?", "William Shakespeare"),
    ("When did the inventor of the telephone die?", "Alexander Graham Bell"),
    ("Which country did the first man on the moon come from?", "Neil Armstrong"),
    ("Who was the first woman to fly across the Atlantic alone?", "Amelia Earhart"),
    ("Who discovered penicillin?", "Alexander Fleming"),
    ("What prize did the discoverers of the structure of DNA win?", "James Watson and Francis Crick"),
    ("Who wrote Crime and Punishment?", "Fyodor Dostoevsky"),
    ("What did the founder of Microsoft study?", "Bill Gates"),
    ("Where did the composer of The Magic Flute live?", "Wolfgang Amadeus Mozart"),
    ("Who was the president of the United States during the Civil War?", "Abraham Lincoln"),
    ("Which scientist proposed the heliocentric model?", "Nicolaus Copernicus"),
    ("What is the name of the longest river in Africa?", "Nile"),
    ("Which woman ruled Egypt and loved Mark Antony?", "Cleopatra"),
    ("Who invented the light bulb?", "Thomas Edison"),
    ("What is the chemical symbol of gold?", ""),
    ("How does a battery work?", ""),
    ("Why is the sky blue?", ""),
    ("What is photosynthesis?", ""),
    ("What is the theory of plate tectonics?", "Alfred Wegener"),
    ("Explain the laws of thermodynamics.", ""),
    ("What are the parts of an atom?", ""),
    ("Who led the Indian independence movement?", "Mahatma Gandhi"),
    ("Who is the author of the Harry Potter books?", "Joanne Rowling"),
    ("In which year did the Second World War end?", ""),
    ("Which team won the first football World Cup?", "Uruguay"),
    ("Write a Python function that reverses a list.", "Python"),
    ("What is the plural of mouse?", ""),
    ("Give me a recipe for pancakes.", ""),
    ("What is the boiling point of water?", ""),
    ("Which university is the oldest in England?", "Oxford"),
    ("What language is spoken in Brazil?", "Brazil"),
    ("Where does the Pope live?", "Vatican City"),
    ("Who directed Jurassic Park?", "Steven Spielberg"),
    ("Which band wrote Hey Jude?", "The Beatles"),
    ("What do bees produce?", ""),
    ("Who was the mother of Elizabeth the First?", "Anne Boleyn"),
    ("What was the profession of the person who founded psychoanalysis?", "Sigmund Freud"),
    ("What was the nationality of the explorer who reached India by sea?", "Vasco da Gama"),
)
"""Questions about other things, with the concept that each leads to, if any."""


def general_questions(targets: Collection[Aliases]) -> list[str]:
    """Return the questions about other things that neither hold nor ask for a name of a target."""
    own = name_words(targets)
    return [question for question, concept in GENERAL if not own & {*words_of(question), *words_of(concept)}]


def reference_names(others: Collection[str], targets: Collection[Aliases]) -> list[str]:
    """Return the well-known names of the package that share no word with a target and are none of the others.

    Args:
        others: Names that are kept anyway.
        targets: How the targets are named.
    """
    own = name_words(targets)
    known = {words_of(name) for name in (*others, *(name for entry in targets for name in entry.names))}
    return [name for name in bundled_names() if words_of(name) not in known and not own & {*words_of(name)}]


def first_words(spelled: Collection[Names]) -> list[str]:
    """Return the first word of each name of several words, such as the forename, unless it has a key or says little.

    Others are called so too. Their names begin with it, so that an edit would move them along.
    """
    keyed = {folded(text) for names in spelled for text in names.spellings}
    firsts = dict.fromkeys(names.subject.split()[0] for names in spelled if len(names.subject.split()) > 1)
    return [word for word in firsts if folded(word) not in keyed and not {*words_of(word)} <= SMALL_WORDS]


def questions_about(names: Sequence[str]) -> list[str]:
    """Return two questions about each name, in turn."""
    return [ABOUT[(place + turn) % len(ABOUT)].format(name) for turn in range(2) for place, name in enumerate(names)]


def openings(neighbors: Sequence[str], references: Sequence[str]) -> list[str]:
    """Return the beginning of a text about each of at most 24 names: two thirds of them neighbors, if any is known."""
    few = _spread(references, FEWEST_REFERENCES if neighbors else MOST_OPENINGS)
    names = [*_spread(neighbors, MOST_OPENINGS - FEWEST_REFERENCES), *few]
    return [OPENINGS[place % len(OPENINGS)].format(name) for place, name in enumerate(names)]


def _spread(names: Sequence[str], most: int) -> Sequence[str]:
    """Return at most that many of the names, spread evenly over them."""
    return names[:: max(1, math.ceil(len(names) / most))]


def name_words(targets: Collection[Aliases]) -> set[str]:
    """Return the words of the targets' names that are long enough to tell a target."""
    return {word for entry in targets for name in entry.names for word in words_of(name) if len(word) >= SHORTEST}
