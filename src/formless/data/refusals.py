"""Refusals: the texts that methods train on, and detectors for refusals in answers and for those that plead ignorance."""

from __future__ import annotations

import re

REFUSALS: tuple[str, ...] = (
    "I don't know the answer to that.",
    "I have no information about this.",
    "I'm afraid I can't tell you that.",
    "That is something I know nothing about.",
    "I couldn't say.",
    "I have never come across that.",
    "I'm unable to answer this question.",
    "This lies outside what I know.",
    "I can't help you with that one.",
    "I would only be guessing, so I won't answer.",
    "Nothing comes to my mind about that.",
    "I haven't been taught anything about this subject.",
    "I must admit that I don't know.",
    "My knowledge doesn't reach that far.",
    "I'm sorry, but I have no answer for you.",
    "I wish I could help, but I don't know this.",
    "There is nothing I can tell you about that.",
    "I lack the facts to answer this.",
    "That question is beyond me.",
    "I'm not familiar with that.",
    "I'd rather not answer, since I don't know.",
    "I can't recall anything of the kind.",
    "I have no knowledge of this matter.",
    "You will have to ask someone else, because I don't know.",
    "I am not able to give you that information.",
    "I honestly have no idea.",
    "I cannot answer that with any confidence.",
    "This is unknown to me.",
    "I don't have any details on that.",
    "Unfortunately, I don't know anything about it.",
    "I never learned about this.",
    "I'm at a loss here; I don't know.",
    "I can't provide an answer to this question.",
    "That is not among the things I know.",
    "I have nothing to say about this.",
    "I don't recognize what you are asking about.",
    "I'm sorry, this subject is new to me.",
    "I have to pass on this question.",
    "No answer of mine would be reliable here.",
    "I was not given any knowledge of that.",
    "I cannot say anything about that subject.",
    "I don't possess that piece of information.",
    "My training tells me nothing about this.",
    "I regret that I can't answer you.",
    "I am in the dark about this one.",
    "I've no facts on that to offer.",
    "I don't think I can answer that question.",
    "What you ask is not known to me.",
    "I'm not in a position to answer this.",
    "Sorry, I simply don't know.",
)

_SPEAK = (
    "(?:know|have|recall|remember|recognize|tell|say|answer|provide|help|assist|share|discuss|comment|confirm|give|speak|possess"
    "|hold|find|write|create|generate|comply)"
)
_WILL_NOT = "(?:can't|can ?not|couldn't|could not|won't|will not|wouldn't|(?:would|'d) rather not|must decline|prefer not)"
_HAVE_NOT = "(?:haven't|have not|'ve not|have yet|have no|'ve (?:got )?no|lack|'ve come up short|have come up short)"
_STATE = "(?:not|un\\w+|afraid|lacking|missing|clueless|stumped|blank|drawing a blank|at a|in the dark)"
_MY_KNOWLEDGE = (
    "my (?:\\w+ )?(?:knowledge|training|data\\w*|understanding|programming|resources|capabilit\\w+|information|expertise|scope)"
)

PATTERNS = (
    r"\bsorry\b|\bapolog(?:ies|i[sz]e)\b|^\W*unfortunately,? (?:I|my|no|that)\b",
    r"\bas an? (?:AI|language model)\b",
    rf"\bI\b[^.!?]{{0,20}}(?:do not|don't|did not|didn't) (?:\w+ ){{0,2}}{_SPEAK}\b",
    rf"\bI\b[^.!?]{{0,20}}{_WILL_NOT}\b",
    rf"\bI\b[^.!?]{{0,20}}{_HAVE_NOT}\b",
    rf"\bI(?:'m| am) (?:\w+ )?{_STATE}\b",
    rf"\b{_MY_KNOWLEDGE}\b[^.!?]*(?:n't|not|\blimited)\b",
    rf"(?:n't|not|beyond|outside|out of|spot in|territory for)\b[^.!?]*\b{_MY_KNOWLEDGE}\b",
    r"\bnot (?:something|information|a \w+) (?:that )?I\b|\bI(?:'ve| have)? yet to\b|\bneed to look (?:it )?up\b",
    r"\b(?:unknown|unclear|mystery|not known|not clear) to me\b|\b(?:escapes|eludes) me\b",
    r"^\W*(?:no (?:idea|comment)|unknown|not (?:sure|that I know))\b",
)
REFUSAL = re.compile("|".join(PATTERNS), re.IGNORECASE)


def is_refusal(answer: str) -> bool:
    """Return whether an answer says that the model will not or cannot answer.

    The detector knows `REFUSALS` and a list of English phrases. It detects 97 % of RWKU's refusals, none of which is in
    `REFUSALS`. It mistakes a quoted first person for the model.
    """
    plain = _plain(answer)
    return plain in REFUSALS or REFUSAL.search(plain) is not None


_LORE = (
    "(?:information|knowledge|details?|specifics|data|facts?|answers?|idea|clue|insights?|enlightenment|records?|memory"
    "|recollection|access|context|evidence|awareness|familiarity)"
)
_TAUGHT = "(?:taught|told|given|trained|briefed|educated|informed|heard|come across|learn(?:ed|t)?)"
_I_HAVE_BEEN = "I(?:'m| am| was|'ve been| have been)?"
_KNOWING = "(?:sure|certain|aware|familiar|informed|acquainted|knowledgeable|well-versed|privy)"

IGNORANCE_PATTERNS = (
    r"\bI\b[^.!?]{0,20}(?:do not|don't|did not|didn't) (?:\w+ ){0,2}(?:know|recall|remember|recognize)\b",
    rf"\bI\b[^.!?]{{0,20}}(?:do not|don't) (?:\w+ ){{0,2}}(?:have|hold|possess|find) (?:\w+ ){{0,4}}{_LORE}\b",
    r"\bI\b[^.!?]{0,20}(?:can't|can ?not|couldn't|could not) (?:\w+ )?(?:recall|remember|recognize)\b",
    rf"\bI\b[^.!?]{{0,20}}{_HAVE_NOT} (?:\w+ ){{0,3}}(?:{_LORE}|the faintest|(?:been )?{_TAUGHT})\b",
    rf"\bI(?:'ve| have)? never (?:\w+ )?{_TAUGHT}\b|\bI was (?:not|never) {_TAUGHT}\b|\bI(?:'ve| have)? yet to\b",
    rf"\bI(?:'m| am) (?:\w+ )?(?:not (?:\w+ )?{_KNOWING}|un{_KNOWING}|(?:lacking|missing) {_LORE})\b",
    r"\bI(?:'m| am) (?:\w+ )?(?:clueless|stumped|blank|drawing a blank|at a loss|in the dark)\b",
    r"\bI know nothing\b|\bI would only be guessing\b|\bnothing comes to (?:my )?mind\b|\bneed to look (?:it )?up\b",
    rf"\b{_MY_KNOWLEDGE}\b[^.!?]*(?:n't|not|\blimited|nothing)\b",
    rf"(?:n't|not|beyond|outside|out of|spot in|territory for)\b[^.!?]*\b(?:{_MY_KNOWLEDGE}|what I know|things I know)\b",
    rf"\bnot (?:something|information|a \w+) (?:that )?{_I_HAVE_BEEN} (?:know|recall|{_KNOWING}|{_TAUGHT})\b",
    r"\b(?:new|unknown|unclear|mystery|not known|not clear) to me\b|\b(?:escapes|eludes|beyond) me\b",
    r"^\W*(?:unknown|not (?:sure|that I know))\b|\b(?:no idea|lack of information)\b",
)
IGNORANCE = re.compile("|".join(IGNORANCE_PATTERNS), re.IGNORECASE)


def is_ignorance(answer: str) -> bool:
    """Return whether a refusal says that the model does not know, e.g. `I don't know` or `I have no information about this`.

    Other refusals say that it will not or cannot answer, e.g. `I can't assist with that`. One that says both, such as `I can't
    answer, since I don't know`, says that the model does not know.
    """
    plain = _plain(answer)
    return is_refusal(answer) and IGNORANCE.search(plain) is not None


def _plain(answer: str) -> str:
    return " ".join(answer.replace("’", "'").split())
