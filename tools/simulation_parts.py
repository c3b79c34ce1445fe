"""Measure what a sweep of any model costs beside the model: tokens, bytes, and the work of the sweep's own process."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import random_lm
from formless.data.rows import Instruction, Passage, Preference
from formless.data.target import Target
from formless.evaluation.evaluate import evaluate
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.experiment.executors.base import Limits
from formless.experiment.executors.ray import connect
from formless.experiment.executors.supervised import Supervised, Worker
from formless.experiment.executors.worker import Attempt, Message
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult, check_result
from formless.experiment.status import read_status
from formless.models.lm import LM
from formless.report.page import write_experiment_report
from tests.report.made_runs import keep_run, made_run, write_runs
from tools.simulation import GPUS, SEEDS, TARGETS, Measured

SCORING, GENERATING = "fb,qa,level3,membership,mmlu,bbh,truthfulqa", "generation,triviaqa,fluency"
LABELS = ("original", *(f"method{number}" for number in range(19)))
RUNS, MESSAGES, ECHOES, RECORDS = 2000, 20, 500, 40
"""Runs without work, messages of each, messages through Ray, and records of the real size that are read."""


def measure(target: Target) -> Measured:
    """Return what was measured; it takes some minutes."""
    lm = random_lm("small", dtype=torch.float32)
    reading, scored = passes(lm, target, SCORING)
    writing, generated = passes(lm, target, GENERATING)
    whole = scored.model_copy(update={"tasks": [*scored.tasks, *generated.tasks], "answers": generated.answers})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        record_bytes, read_mb_s = reading_rate(folder / "real", whole)
        runs = write_runs(folder / "many", LABELS, TARGETS, seeds=range(SEEDS))
        result_bytes = runs[-1].folder(folder / "many").result.stat().st_size
        status_s = timed(lambda: read_status(folder / "many"))
        page = folder / "report.html"
        report_s = timed(lambda: write_experiment_report(page, folder / "many", baseline="original", command=""))
        driver_ms, message_ms = driver(folder / "driven")
    return Measured(
        reading=reading, writing=writing, training_tokens=training_tokens(lm, target), record_bytes=record_bytes,
        result_bytes=result_bytes, driver_ms=driver_ms, message_ms=message_ms + echo_ms(), status_s=status_s,
        report_s=report_s, read_mb_s=read_mb_s,
    )  # fmt: skip


def timed(work: Any) -> float:
    """Return the processor's seconds of a call, which others on the machine disturb least."""
    start = time.process_time()
    work()
    return time.process_time() - start


def passes(lm: LM, target: Target, suite: str) -> tuple[list[int], Record]:
    """Return the tokens of each pass through the model in an evaluation, and the record."""
    found: list[int] = []

    def count(_: Any, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        tokens = more.get("input_ids", arguments[0] if arguments else None)
        found.append((more["inputs_embeds"][..., 0] if tokens is None else tokens).numel())

    hook = lm.model.get_submodule("model").register_forward_pre_hook(count, with_kwargs=True)
    try:
        return found, evaluate(lm, target, suite, progress=False)
    finally:
        hook.remove()


def training_tokens(lm: LM, target: Target) -> dict[str, int]:
    """Return the tokens of each training file, at most 512 of each text; a pair of answers is two texts."""

    def tokens(*parts: str) -> int:
        return min(512, len(lm.tokenizer(" ".join(parts))["input_ids"]))

    return {
        "positive": sum(tokens(row.text) for row in target.rows("positive", Passage)),
        "passage": sum(tokens(row.text) for row in target.rows("passage", Passage)),
        "reject": sum(tokens(row.instruction, row.output) for row in target.rows("reject", Instruction)),
        "pair": sum(tokens(row.prompt, answer) for row in target.rows("pair", Preference) for answer in row.response),
    }


def reading_rate(out: Path, record: Record) -> tuple[int, float]:
    """Return the bytes of a record, and how many MB a second are checked and parsed again."""
    runs = [made_run("rocr", f"{number}_X") for number in range(RECORDS)]
    folders = [keep_run(out, run, record) for run in runs]
    size = folders[0].record.stat().st_size

    def read() -> None:
        for folder, run in zip(folders, runs, strict=True):
            check_result(folder, run)
            load_record(folder.record)

    return size, RECORDS * size / 1e6 / timed(read)


def driver(out: Path) -> tuple[float, float]:
    """Return the milliseconds of the sweep's process for one run and for one message, with actors that do nothing."""
    taken = []
    for messages in (0, MESSAGES):
        runs = [made_run("rocr", f"{number}_X", messages) for number in range(RUNS)]
        executor = _Pool(messages=messages)
        taken.append(timed(lambda runs=runs, executor=executor: deque(executor.execute(runs, out, lambda *_: None), maxlen=0)))
    alone, spoken = (1000 * seconds / RUNS for seconds in taken)
    return alone, (spoken - alone) / MESSAGES


def echo_ms() -> float:
    """Return the milliseconds of a message through Ray, as the executor asks for it."""
    cluster = connect("local", Limits(), workers=1, cores=1)
    import ray

    class Echo:
        def listen(self) -> str:
            return "x" * 150

    remote: Any = ray.remote(Echo)
    actor = remote.remote()
    ray.get(actor.listen.remote())

    def ask() -> None:
        for _ in range(ECHOES):
            answer = actor.listen.remote()
            ray.wait([answer], timeout=1)
            ray.get(answer)

    start = time.perf_counter()
    try:
        ask()
        return 1000 * (time.perf_counter() - start) / ECHOES
    finally:
        del cluster
        ray.shutdown()


class _Idle(Worker):
    """A worker that answers at once.

    Args:
        messages: How often it reports before it ends a run.
    """

    def __init__(self, place: int, messages: int) -> None:
        super().__init__(place, on_gpu=True)
        self._messages = messages
        self.said: deque[str] = deque()

    def _deliver(self, command: str) -> bool:
        attempt = Attempt.model_validate_json(command)
        said = Message(progress=RunProgress(phase="evaluating", since=0, at=0)).model_dump_json()
        self.said.extend([said] * self._messages)
        self.said.append(Message(result=_result(attempt)).model_dump_json())
        return True

    def _received(self) -> list[str]:
        return [self.said.popleft()]

    def _ended(self) -> None: ...

    def _stop(self) -> None: ...


@dataclass(frozen=True)
class _Pool(Supervised[_Idle]):
    """As many idle workers as there are GPUs."""

    workers: int = GPUS
    messages: int = 0

    def start(self, place: int, attempt: Attempt) -> _Idle:
        """See `Supervised`."""
        worker = _Idle(place, self.messages)
        worker.send(attempt)
        return worker

    def ready(self, workers: Sequence[_Idle]) -> list[_Idle]:
        """See `Supervised`."""
        return [worker for worker in workers if worker.said]


def _result(attempt: Attempt) -> RunResult:
    return RunResult(
        id=attempt.run.id, status="complete", attempts=1, run=attempt.run, timings={"total": 1.0}, code=None, versions={},
        hardware={}, started="", finished="",
    )  # fmt: skip
