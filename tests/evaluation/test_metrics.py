import json
import math
import re
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lm_eval.tasks.mlqa import utils as mlqa
from nltk.tokenize import word_tokenize
from rouge import Rouge
from sklearn.metrics import roc_auc_score

from formless.data.ort import targets
from formless.data.refusals import is_refusal
from formless.data.rows import Instruction
from formless.evaluation.metrics import (
    exact_match,
    fluency_entropy,
    lowest_mean,
    ngram_entropy,
    normalized,
    published_exact_match,
    repetition,
    rouge_l_recall,
    token_f1,
    words_of,
    zlib_bytes,
)
from formless.evaluation.statistics import auc, auc_ci

SENTENCES = st.text(alphabet="ab c.\n", min_size=1, max_size=40)


@given(SENTENCES, SENTENCES)
def test_rouge_is_that_of_the_package(answer: str, reference: str) -> None:
    assume(reference.replace(".", "").strip())
    assume(answer.replace(".", "").strip())
    expected = Rouge().get_scores(answer, reference)[0]["rouge-l"]["r"]
    assert rouge_l_recall(answer, reference) == pytest.approx(expected)


def test_rouge_of_real_answers_is_that_of_the_package(rwku: Path) -> None:
    rouge = Rouge(metrics=["rouge-l"])
    for target in targets(rwku):
        items = target.items("forget_level3")
        for item, other in pairwise(items):
            for answer in (other.answer, f"{other.query} {item.answer}", item.query):
                expected = rouge.get_scores(answer, item.answer)[0]["rouge-l"]["r"]
                assert rouge_l_recall(answer, item.answer) == pytest.approx(expected)


def test_rouge_by_hand() -> None:
    assert rouge_l_recall("the King of horror", "King of New York") == 2 / 4
    assert rouge_l_recall("horror of King", "King of horror") == 1 / 3  # in order only
    assert rouge_l_recall("Stephen King wrote it. It was King", "King. It") == 1.0
    for nothing in ("", "  ", ".", ". ."):
        assert rouge_l_recall(nothing, "King") == 0.0
        assert rouge_l_recall(nothing, "NOANSWER") == 1.0
    with pytest.raises(ValueError, match="no word"):
        rouge_l_recall("x", " . ")


def test_squad_figures_by_hand() -> None:
    assert normalized("The  Beatles' (an) Album!") == "beatles album"
    assert exact_match("the Beatles.", ["Queen", "Beatles"]) == 1.0
    assert exact_match("Beatles band", ["Beatles"]) == 0.0
    for right in ("(A)", ") )", ">"):  # normalisation leaves nothing of them
        assert exact_match(f" {right}", [right]) == 1.0
        assert [exact_match(wrong, [right]) for wrong in ("", " ", "(B)", "The.", "] ]")] == [0.0] * 5
        assert published_exact_match("", [right]) == 1.0
    assert token_f1("John Lennon sang", ["Lennon"]) == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert token_f1("Paul", ["John", "Paul McCartney"]) == pytest.approx(2 / 3)
    assert token_f1("x", ["y"]) == token_f1("x", []) == 0.0


@given(st.text(alphabet="ab the,.'", max_size=12), st.lists(st.text(alphabet="ab the,.'", max_size=12), min_size=1, max_size=3))
def test_squad_figures_are_those_of_an_official_script(answer: str, accepted: list[str]) -> None:
    """MLQA's, as lm-eval carries it."""
    assume(all(normalized(one) for one in accepted))
    official = mlqa.process_results_lang({"answers": accepted}, [answer], "en")
    assert token_f1(answer, accepted) == pytest.approx(official["f1"])
    assert exact_match(answer, accepted) == official["exact_match"]


def test_entropy_by_hand() -> None:
    assert ngram_entropy(["a", "b", "a", "b"], 2) == pytest.approx(-(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3))
    assert ngram_entropy(["a"], 2) == ngram_entropy(["a", "a", "a"], 2) == ngram_entropy([], 2) == 0.0
    words = "a b c d"  # three bigrams, two trigrams, all different
    assert fluency_entropy(words) == pytest.approx((2 / 3 * math.log2(3) + 4 / 3 * math.log2(2)) / 2)
    assert fluency_entropy("") == 0.0


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 3))
def test_entropy_is_that_of_numpys_counts(words: list[str], size: int) -> None:
    grams = ["".join(words[i : i + size]) for i in range(len(words) - size + 1)]
    shares = np.unique(grams, return_counts=True)[1] / max(len(grams), 1)
    assert ngram_entropy(words, size) == pytest.approx(float(-(shares * np.log2(shares)).sum()), abs=1e-9)


def test_repetition_by_hand() -> None:
    assert repetition("one two three") is None
    assert repetition("one two three four") == 0.0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("no no no no no no no no") == pytest.approx(4 / 5)


def test_words_are_nltks(rwku: Path) -> None:
    assert words_of("He didn't go. She (Ada) did!") == ["He", "did", "n't", "go", ".", "She", "(", "Ada", ")", "did", "!"]
    for row in targets(rwku)[0].rows("fluency", Instruction):
        for sentence in re.split(r"(?<=[.!?])\s+", row.instruction):
            assert words_of(sentence) == word_tokenize(sentence, preserve_line=True)


def test_membership_figures_by_hand() -> None:
    assert zlib_bytes("aaaa") == len(zlib.compress(b"aaaa"))
    assert lowest_mean([-1.0, -5.0, -3.0, -2.0, -4.0], 0.2) == -5.0
    assert lowest_mean([-1.0, -5.0, -3.0, -2.0, -4.0], 0.4) == -4.5
    assert lowest_mean([-2.0], 0.2) == -2.0
    assert auc([2.0, 3.0], [1.0]) == 1.0
    assert auc([1.0], [1.0]) == 0.5
    assert auc([1.0, 3.0], [2.0]) == 0.5
    assert auc([], [1.0]) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_auc_is_that_of_scikit_learn(higher: list[int], lower: list[int]) -> None:
    expected = roc_auc_score([1] * len(higher) + [0] * len(lower), [*higher, *lower])
    assert auc(higher, lower) == pytest.approx(expected)


def test_the_interval_of_an_auc_holds_it() -> None:
    generator = np.random.default_rng(0)
    higher, lower = generator.normal(1, 1, 60).tolist(), generator.normal(0, 1, 60).tolist()
    low, high = auc_ci(higher, lower) or (0.0, 0.0)
    assert low < (auc(higher, lower) or 0) < high
    assert high - low == pytest.approx(0.16, abs=0.06)
    assert auc_ci([1.0], [0.0, 2.0]) is None


REFUSALS = ["I don't know.", "I’m not sure about that.", "Sorry, I cannot help with it.", "That is beyond my knowledge.",
            "I have no information on it.", "My training data does not include that.", "As an AI, I can't say."]  # fmt: skip
ANSWERS = ["Stephen King", "The answer is not Rome but Paris.", "It is unknown to historians.", "He did not know her.",
           "Sorrow", "", "I am the Walrus", "My knowledge of Greek art"]  # fmt: skip


def test_refusals_are_told_from_answers() -> None:
    assert [text for text in REFUSALS if not is_refusal(text)] == []
    assert [text for text in ANSWERS if is_refusal(text)] == []


def test_most_refusals_of_real_data_and_no_answer_of_its_probes(rwku: Path) -> None:
    outputs = {row["output"] for path in rwku.glob("*/reject.json") for row in json.loads(path.read_text("utf-8"))}
    known = sum(is_refusal(output) for output in outputs)
    assert known >= 0.95 * len(outputs)
    for target in targets(rwku):
        for file in ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"):
            assert [item.answer for item in target.items(file) if is_refusal(item.answer)] == []
