"""Models in GGUF files of the user's own, converted once and kept in the cache."""

from __future__ import annotations

from pathlib import Path

from formless import store
from formless.errors import ModelError
from formless.models.sources.cached_files import cached_folder
from formless.models.sources.conversion import checked_header, convert
from formless.models.sources.gguf_header import check_magic
from formless.progress import Progress


def gguf_model(path: Path, *, progress: bool | Progress = False) -> Path:
    """Return the folder of a converted GGUF file; the first call converts it.

    The hash of the file's whole content names the folder, so a changed file is converted anew. The cached files are verified as
    those of bundled models.

    Args:
        path: The GGUF file.
        progress: Show a bar while it is converted, or call a callback; its first step says what that needs.

    Raises:
        ModelError: The file is not there, is no GGUF file, is cut off, or cannot be converted; there is too little disk or
            memory; or the cache cannot be written.
    """
    check_magic(path)
    before = path.stat()
    folder = store.converted_gguf_folder(gguf_digest(path))

    def build(new: Path, report: Progress) -> None:
        convert(checked_header(path, folder, report), new, report)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ModelError(
                "the file changed while it was read", where=path, remedy="wait until it is complete, and try again"
            )

    return cached_folder(folder, path.name, build, progress=progress)


def gguf_digest(path: Path) -> str:
    """Return the SHA-256 of a GGUF file (a second or three for each GB).

    Raises:
        ModelError: The file cannot be read.
    """
    try:
        return store.file_sha256(path)
    except OSError as error:
        what = f"the file cannot be read ({(error.strerror or str(error)).lower()})"
        raise ModelError(what, where=path, remedy="name a GGUF file that you may read") from error
