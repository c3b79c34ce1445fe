"""The `formless` command, `python -m formless` too."""

import os
import sys
import warnings

from formless.errors import INTERRUPTED


def main() -> None:
    """Run a verb. Ctrl-C ends in exit code 130 while torch and transformers are still being imported, too."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars, which would fill a log
    try:
        from formless.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
