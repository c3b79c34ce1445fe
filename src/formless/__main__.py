"""The `formless` command, also as `python -m formless`."""

import os
import sys
import warnings

from formless.errors import INTERRUPTED


def main() -> None:
    """Run a command. Ctrl-C ends in exit code 130, also while torch and transformers are being imported."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries would fill a log
    try:
        from formless.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
