"""What a model writes for one real target, beside transformers' own loop over batches in file order, and its limit."""

from __future__ import annotations

from benchmarks.evaluation import checked_answers, first_rows, jobs_of, limit_of_answers, our_answers, real_target
from benchmarks.models import first_model, label, other_models
from benchmarks.plain_evaluation import WRITTEN, answers
from benchmarks.timing import Row, in_turns, repeated

FIRST = {"gen_fb": 30, "gen_qa": 30, "gen_level3": 30, "triviaqa": 48, "fluency": 24}
ROUNDS = 2
GOAL = 0.6


def rows(*, quick: bool = False) -> list[Row]:
    """The rows of the table."""
    lm, target = first_model(), real_target()
    suite, counts = ("gen_qa", {"gen_qa": 2}) if quick else (",".join(FIRST), FIRST)
    jobs = first_rows(jobs_of(target, suite), counts)
    checked = checked_answers(lm, jobs)
    ours, plain = in_turns(
        lambda: our_answers(lm, jobs), lambda: [answers(lm, job) for job in jobs], rounds=1 if quick else ROUNDS
    )
    prompts = sum(len(job.rows) for job in jobs)
    note = f"{prompts} prompts, 30 new tokens, fluency 256; the plain way in batches of {WRITTEN}"
    what = f"generation metrics of {target.subject}"
    found = [Row(what, ours, plain, 2, checked, note, label(lm), limit_of_answers(lm, jobs), GOAL)]
    for other in () if quick else other_models():
        our_answers(other, jobs[:1])
        ours = repeated(lambda lm=other: our_answers(lm, jobs), rounds=1)  # type: ignore[misc]
        found.append(Row(what, ours, None, None, "", "", label(other), limit_of_answers(other, jobs), GOAL))
    return found
