"""What a model writes for one real target, beside transformers' own loop over batches in file order."""

from __future__ import annotations

import formless
from benchmarks.evaluation import checked_answers, first_rows, jobs_of, our_answers, real_target
from benchmarks.plain_evaluation import WRITTEN, answers
from benchmarks.timing import Row, in_turns

FIRST = {"gen_fb": 30, "gen_qa": 30, "gen_level3": 30, "triviaqa": 48, "fluency": 24}
ROUNDS = 2


def rows(*, quick: bool = False) -> list[Row]:
    """The row of the table."""
    lm, target = formless.load("smollm2", dtype="float32", device="cpu"), real_target()
    suite, counts = ("gen_qa", {"gen_qa": 2}) if quick else (",".join(FIRST), FIRST)
    jobs = first_rows(jobs_of(target, suite), counts)
    checked = checked_answers(lm, jobs)
    ours, plain = in_turns(
        lambda: our_answers(lm, jobs), lambda: [answers(lm, job) for job in jobs], rounds=1 if quick else ROUNDS
    )
    prompts = sum(len(job.rows) for job in jobs)
    note = f"{prompts} prompts, 30 new tokens, fluency 256; the plain way in batches of {WRITTEN}"
    return [Row(f"generation metrics of {target.subject}", ours, plain, 2, checked, note)]
