"""Metrics of generated answers and texts, as pure functions."""

from __future__ import annotations

import math
import re
import string
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from formless.data.questions.distractors import fold

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # Chinese and Japanese
NO_ANSWER = "NOANSWER"
REPEATED_WORDS = 4
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def rouge_l_recall(answer: str, reference: str) -> float:
    """Return ROUGE-L recall as the package `rouge` 1.0.1 computes it, in [0, 1].

    Sentences end at every full stop, words at white space. Recall is the number of different reference words that stand in a
    longest common subsequence of some reference and some answer sentence, over the number of different reference words. An
    answer without a word counts as `NOANSWER`, as in the published code.
    """
    answers, references = _sentences(answer) or [[NO_ANSWER]], _sentences(reference)
    words = {word for sentence in references for word in sentence}
    if not words:
        raise ValueError("the reference holds no word")
    found = {word for one in references for other in answers for word in _common_words(one, other)}
    return len(found) / len(words)


def has_rouge_word(text: str) -> bool:
    """Return whether a text holds a word that the package `rouge-score` compares: a run of Latin letters and digits."""
    return re.search("[a-z0-9]", text.lower()) is not None


def rouge_scores(answer: str, reference: str) -> dict[str, float]:
    """Return ROUGE-L recall and F1 and ROUGE-1 recall by the package `rouge-score` with stemming, each in [0, 1].

    The whole texts are compared, as TOFU and open-unlearning do; `rouge_l_recall` compares them by sentence.
    """
    found = _rouge_scorer().score(reference, answer)
    return {
        "rouge_l_recall": float(found["rougeL"].recall),
        "rouge_l_f1": float(found["rougeL"].fmeasure),
        "rouge_1_recall": float(found["rouge1"].recall),
    }


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # takes most of a second, and few commands need it

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def _sentences(text: str) -> list[list[str]]:
    if not text.replace(".", "").strip():
        return []
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_words(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Return the words of a longest common subsequence; of several, the one that the package finds."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one, 1):
        for j, second in enumerate(other, 1):
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if word == second else max(lengths[i - 1][j], lengths[i][j - 1])
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def normalized(text: str) -> str:
    """Return a text after SQuAD's normalization: lower case, without punctuation, articles and extra white space."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 if the answer equals an accepted one after normalization, else 0.

    Differs from the paper: an answer of which normalization leaves nothing, such as BBH's `(A)` and `) )`, is compared without
    its punctuation alone, or as it is. Otherwise a model that writes nothing would be right on a fifth of BBH.
    """
    return float(bool(answer.strip()) and _comparable(answer) in {_comparable(one) for one in accepted})


def published_exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 if the answer equals an accepted one after normalization, even if both are empty then, else 0."""
    return float(normalized(answer) in {normalized(one) for one in accepted})


def _comparable(text: str) -> str:
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return normalized(text) or " ".join(plain.split()) or text.strip()


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """Return SQuAD's F1 over normalized words, the best over the accepted answers, in [0, 1]."""
    return max((_f1(normalized(answer).split(), normalized(one).split()) for one in accepted), default=0.0)


def _f1(words: list[str], right: list[str]) -> float:
    common = sum((Counter(words) & Counter(right)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(right)
    return 2 * precision * recall / (precision + recall)


def says(text: str, accepted: Sequence[str]) -> bool:
    """Return whether a text holds one of the answers as whole words; case, accents, punctuation and articles do not matter.

    Number words count as digits. An answer in a script without spaces between words counts wherever its characters stand.
    """
    words = fold(text)
    return any(_holds(words, fold(answer)) or (_UNSPACED.search(answer) and answer.strip() in text) for answer in accepted)


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(tuple(words[start : start + len(part)]) == tuple(part) for start in range(len(words) - len(part) + 1))


def words_of(text: str) -> list[str]:
    """Return NLTK's word tokens, sentence by sentence.

    Differs from the paper: sentences end at `.`, `!` or `?` before white space instead of by NLTK's trained splitter, whose
    model is no part of the package. It matters only for the token of a full stop after an abbreviation.
    """
    from nltk.tokenize import NLTKWordTokenizer  # takes most of a second, and few commands need it

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in SENTENCE_END.split(text) for word in tokenizer.tokenize(sentence)]


def ngram_entropy(words: Sequence[str], size: int) -> float:
    """Return the entropy of a text's n-gram frequencies (bits); 0 where there is at most one n-gram."""
    counts = Counter(zip(*(words[start:] for start in range(size)), strict=False))
    total = sum(counts.values())
    return sum(-count / total * math.log2(count / total) for count in counts.values()) + 0.0


def fluency_entropy(text: str) -> float:
    """Return the mean of 2/3 of the bigram and 4/3 of the trigram entropy (bits), as ROME and RWKU measure fluency."""
    words = words_of(text)
    return (2 / 3 * ngram_entropy(words, 2) + 4 / 3 * ngram_entropy(words, 3)) / 2


def repetition(text: str) -> float | None:
    """Return the share of word 4-grams that occurred earlier in the text, in [0, 1]; None for fewer than four words."""
    words = words_of(text)
    grams = list(zip(*(words[start:] for start in range(REPEATED_WORDS)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else None


def zlib_bytes(text: str) -> int:
    """Return the size of a text as zlib compresses it (bytes)."""
    return len(zlib.compress(text.encode("utf-8", "surrogatepass")))


def lowest_mean(values: Sequence[float], share: float) -> float:
    """Return the mean of the lowest share of some values; at least one of them."""
    kept = sorted(values)[: max(1, int(len(values) * share))]
    return math.fsum(kept) / len(kept)


def log_sum(logs: Sequence[float]) -> float:
    """Return the log of the sum of exponentials."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))
