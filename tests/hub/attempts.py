"""Load each named model and print what came of it, a JSON object a line: `python -m tests.hub.attempts NAME...`."""

from __future__ import annotations

import json
import sys
import time
import warnings

from huggingface_hub import constants

import formless
from formless.errors import UserError

constants.DOWNLOAD_CHUNK_SIZE = 1024  # a download goes on after the last whole chunk, of 10 MB


def attempt(name: str) -> dict[str, object]:
    started = time.monotonic()
    found: dict[str, object]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            lm = formless.load(name, device="cpu", progress=False)
            commit = lm.model.config._commit_hash
            found = {"fingerprint": lm.fingerprint, "commit": commit, "template": lm.tokenizer.chat_template is not None}
        except UserError as error:
            found = {"error": str(error)}
    said = [str(warning.message) for warning in warned if warning.category is UserWarning]
    return found | {"seconds": time.monotonic() - started, "warnings": said}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(json.dumps(attempt(argument)) + "\n")
