"""What a model writes for one real target, beside transformers' own loop over batches in file order, and its limit."""

from __future__ import annotations

from functools import partial

from benchmarks.evaluation import checked_answers, first_rows, jobs_of, limit_of_answers, our_answers, real_target
from benchmarks.models import first_model, label, other_models, part_of
from benchmarks.plain_evaluation import WRITTEN, answers
from benchmarks.timing import Row, in_turns, repeated

FIRST = {"gen_fb": 15, "gen_qa": 15, "gen_level3": 15, "triviaqa": 24, "fluency": 12}
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
        jobs = first_rows(jobs_of(target, suite), part_of(FIRST, other))
        limit = limit_of_answers(other, jobs)
        ours = repeated(partial(our_answers, other, jobs), rounds=ROUNDS)
        prompts = sum(len(job.rows) for job in jobs)
        found.append(Row(what, ours, None, None, "", f"{prompts} prompts", label(other), limit, GOAL))
    return found
