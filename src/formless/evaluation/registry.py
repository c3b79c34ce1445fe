"""The tasks by name: ONE ROW PER TASK, those of other packages too."""

from __future__ import annotations

from formless.evaluation.task import Task
from formless.evaluation.tasks.adversarial import GEN_LEVEL3, LEVEL3, SUB_LEVEL3
from formless.evaluation.tasks.bbh import BBH
from formless.evaluation.tasks.blank import FB, GEN_FB, SUB_FB, SUB_FB_LETTERS
from formless.evaluation.tasks.fluency import FLUENCY
from formless.evaluation.tasks.forget_quality import FORGET_QUALITY
from formless.evaluation.tasks.formats import (
    GEN_QA_ALONE,
    GEN_QA_COMPLETION,
    GEN_QA_NO_CUE,
    GEN_QA_SYSTEM,
    QA_ALONE,
    QA_COMPLETION,
    QA_NO_CUE,
    QA_SYSTEM,
)
from formless.evaluation.tasks.gcg import GCG_QA
from formless.evaluation.tasks.inside import LENS, PROBE
from formless.evaluation.tasks.jailbreak import (
    GEN_QA_AFFIRMATIVE,
    GEN_QA_EXAMPLES,
    GEN_QA_PASSAGE,
    GEN_QA_ROLE,
    QA_AFFIRMATIVE,
    QA_EXAMPLES,
    QA_PASSAGE,
    QA_ROLE,
)
from formless.evaluation.tasks.kinds import GEN_QA_KINDS, QA_KINDS
from formless.evaluation.tasks.membership import MIA, MIA_GRADNORM, MIA_HOLDOUT, MIA_QA, MIA_QA_GRADNORM
from formless.evaluation.tasks.memorization import ANSWER_MEMORIZATION, QA_MEMORIZATION, STATEMENT_MEMORIZATION
from formless.evaluation.tasks.mentions import FB_MENTIONS, GEN_QA_MENTIONS, QA_MENTIONS, STATEMENT_MENTIONS
from formless.evaluation.tasks.mmlu import MMLU
from formless.evaluation.tasks.multiple_choice import MCP, MCP_CHOICE
from formless.evaluation.tasks.muse import KNOWMEM, VERBMEM
from formless.evaluation.tasks.privacy import MIA_REFERENCE, PRIVLEAK
from formless.evaluation.tasks.question import GEN_QA, QA, SAMPLE_QA, SAMPLE_QA_MANY, SUB_QA, SUB_QA_LETTERS
from formless.evaluation.tasks.reverse import REVERSE
from formless.evaluation.tasks.statement import GEN_STATEMENT, STATEMENT
from formless.evaluation.tasks.triviaqa import TRIVIAQA
from formless.evaluation.tasks.true_false import TF, TF_CHOICE
from formless.evaluation.tasks.truth_ratio import REAL_AUTHORS, TRUTH_RATIO, WORLD_FACTS
from formless.evaluation.tasks.truthfulqa import TRUTHFULQA
from formless.evaluation.tasks.utility import MODEL_UTILITY
from formless.evaluation.tasks.whole_answer import ANSWER, PARAPHRASED_ANSWER, PARAPHRASED_QUESTION
from formless.evaluation.tasks.wmdp import WMDP
from formless.evaluation.tasks.written_answer import (
    GEN_ANSWER,
    GEN_PARAPHRASED_QUESTION,
    GEN_REAL_AUTHORS,
    GEN_WORLD_FACTS,
)
from formless.registry import Registry

TASKS = Registry(
    "task",
    "formless.tasks",
    Task,
    (
        STATEMENT,
        FB,
        QA,
        MCP,
        TF,
        SUB_FB,
        SUB_QA,
        MCP_CHOICE,
        TF_CHOICE,
        SUB_FB_LETTERS,
        SUB_QA_LETTERS,
        LEVEL3,
        SUB_LEVEL3,
        STATEMENT_MENTIONS,
        FB_MENTIONS,
        QA_MENTIONS,
        REVERSE,
        QA_KINDS,
        QA_ALONE,
        QA_NO_CUE,
        QA_SYSTEM,
        QA_COMPLETION,
        GEN_STATEMENT,
        GEN_FB,
        GEN_QA,
        SAMPLE_QA,
        GEN_LEVEL3,
        GEN_QA_MENTIONS,
        GEN_QA_KINDS,
        GEN_QA_ALONE,
        GEN_QA_NO_CUE,
        GEN_QA_SYSTEM,
        GEN_QA_COMPLETION,
        QA_AFFIRMATIVE,
        QA_ROLE,
        QA_EXAMPLES,
        QA_PASSAGE,
        GEN_QA_AFFIRMATIVE,
        GEN_QA_ROLE,
        GEN_QA_EXAMPLES,
        GEN_QA_PASSAGE,
        SAMPLE_QA_MANY,
        STATEMENT_MEMORIZATION,
        QA_MEMORIZATION,
        ANSWER_MEMORIZATION,
        VERBMEM,
        KNOWMEM,
        WMDP,
        GCG_QA,
        LENS,
        PROBE,
        MMLU,
        BBH,
        TRUTHFULQA,
        TRIVIAQA,
        FLUENCY,
        MIA,
        ANSWER,
        PARAPHRASED_ANSWER,
        PARAPHRASED_QUESTION,
        TRUTH_RATIO,
        GEN_ANSWER,
        GEN_PARAPHRASED_QUESTION,
        REAL_AUTHORS,
        GEN_REAL_AUTHORS,
        WORLD_FACTS,
        GEN_WORLD_FACTS,
        MODEL_UTILITY,
        FORGET_QUALITY,
        MIA_HOLDOUT,
        MIA_QA,
        MIA_GRADNORM,
        MIA_QA_GRADNORM,
        MIA_REFERENCE,
        PRIVLEAK,
    ),
)
