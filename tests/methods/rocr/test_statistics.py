import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from formless.errors import EditError, OutputError
from formless.methods.rocr.nullspace import BasisProjection, DenseProjection, load_projection
from formless.methods.rocr.statistics import SecondMoments, add_outer_products, compute_statistics, mirror
from formless.models.capture import capture
from formless.models.lm import LM

Tiny = Callable[..., LM]
TEXTS = [f"Text number {i} says {'very ' * (i % 7)}little about Ada." for i in range(150)]


def test_second_moments_equal_one_text_at_a_time(tiny: Tiny) -> None:
    lm = tiny()
    moments = SecondMoments(lm, [2, 1], {})
    moments.add(TEXTS, max_tokens=20)
    for layer in (1, 2):
        keys = [capture(lm, lm.pad([lm.encode(text).ids[:20]]), keys=[layer]).keys[layer][0] for text in TEXTS]
        every = torch.cat(keys).double()
        assert moments.tokens == len(every) == 20 * len(TEXTS)
        assert torch.allclose(moments.mean(layer), every.T @ every / len(every), atol=1e-7)
        assert moments.mean(layer).dtype == torch.double


@pytest.mark.parametrize("width", [1, 3, 8, 50])
def test_sums_of_outer_products_are_mirrored(width: int) -> None:
    keys, total = torch.randn(7, width), torch.zeros(width, width, dtype=torch.double)
    for part in keys.split(3):
        add_outer_products(total, part)
    found = mirror(total)
    assert torch.allclose(found, (keys.T @ keys).double(), atol=1e-5)
    assert torch.allclose(found, found.T, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keys_that_are_not_finite_are_refused(tiny: Tiny, value: float) -> None:
    lm = tiny()
    with torch.no_grad():
        lm.architecture.down_projection(lm.model, 0).weight[0, 0] = value
    with pytest.raises(EditError, match="the keys are not finite"):
        SecondMoments(lm, [1], {}).add(TEXTS[:3], max_tokens=20)


def test_the_saved_basis_is_the_null_space_of_the_corpus(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    moments = SecondMoments(lm, [1], {})
    moments.add(TEXTS, max_tokens=1024)
    values, vectors = torch.linalg.eigh(moments.mean(1))
    threshold = float(values[20:22].mean())
    (found,) = compute_statistics(lm, [1], iter(TEXTS), corpus="texts", out=tmp_path / "s", threshold=threshold)
    assert (found.rank, found.dimension, found.samples, found.tokens) == (21, 48, 150, moments.tokens)
    projection = load_projection(lm, tmp_path / "s", 1, threshold)
    assert isinstance(projection, BasisProjection)
    assert projection.spans_null_space
    keys = torch.randn(3, 48)
    null = vectors[:, :21].float()
    assert torch.allclose(projection.apply(keys), keys @ null @ null.T, atol=1e-4)  # rounding, over the gap at the threshold


def test_half_precision_storage_keeps_the_span(tiny: Tiny, tmp_path: Path) -> None:
    lm, threshold = tiny(), 1e-6
    for name, dtype in (("full", torch.float32), ("half", torch.float16)):
        compute_statistics(lm, [1], iter(TEXTS), corpus="texts", out=tmp_path / name, threshold=threshold, dtype=dtype)
    keys = torch.randn(3, 48)
    full, half = (load_projection(lm, tmp_path / name, 1, threshold).apply(keys) for name in ("full", "half"))
    assert torch.allclose(full, half, atol=5e-3)
    again = load_projection(lm, tmp_path / "half", 1, threshold)
    assert torch.allclose(again.apply(again.apply(keys)), again.apply(keys), atol=1e-5)


def test_a_stopped_computation_goes_on_to_the_same_result(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    whole = compute_statistics(lm, [1, 2], iter(TEXTS), corpus="texts", out=tmp_path / "whole", threshold=1e-5)
    asked: list[int] = []

    def dying() -> Iterator[str]:
        for number, text in enumerate(TEXTS):
            asked.append(number)
            if number == 130:
                raise KeyboardInterrupt
            yield text

    options = {"corpus": "texts", "out": tmp_path / "part", "threshold": 1e-5, "checkpoint_every": 64}
    with pytest.raises(KeyboardInterrupt):
        compute_statistics(lm, [1, 2], dying(), **options)
    assert not (tmp_path / "part").exists()
    done: list[int] = []
    part = compute_statistics(lm, [1, 2], iter(TEXTS), **options, progress=lambda _, texts, __: done.append(texts))
    assert done == [150]  # the first 128 texts were not read again
    assert part == whole
    for layer in (1, 2):
        one, other = (load_projection(lm, tmp_path / name, layer, 1e-5) for name in ("whole", "part"))
        keys = torch.randn(2, 48)
        assert torch.equal(one.apply(keys), other.apply(keys))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "whole"]


def test_an_unfinished_computation_with_other_settings_is_not_mixed_in(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()

    def dying() -> Iterator[str]:
        yield from TEXTS[:70]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_statistics(lm, [1], dying(), corpus="texts", out=tmp_path / "s", checkpoint_every=64)
    for changed in ({"corpus": "other"}, {"samples": 100}, {"max_tokens": 8}, {"layers": [1, 2]}):
        options: dict[str, Any] = {"layers": [1], "corpus": "texts", "out": tmp_path / "s"} | changed
        with pytest.raises(EditError, match="unfinished computation with other settings or texts"):
            compute_statistics(lm, texts=iter(TEXTS), **options)
    with pytest.raises(EditError, match="unfinished computation with other settings or texts"):
        compute_statistics(lm, [1], iter(["another", *TEXTS[1:]]), corpus="texts", out=tmp_path / "s")
    with pytest.raises(EditError, match="unfinished computation with other settings or texts"):
        compute_statistics(tiny(dtype=torch.bfloat16), [1], iter(TEXTS), corpus="texts", out=tmp_path / "s")


def test_a_threshold_under_the_whole_spectrum_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(EditError, match="no eigenvalue of layer 1 is under 1e-12.*the smallest is"):
        compute_statistics(tiny(), [1], iter(TEXTS), corpus="texts", out=tmp_path / "s", threshold=1e-12)
    assert not (tmp_path / "s").exists()


def test_force_replaces_null_spaces_and_nothing_else(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(OutputError, match="something else is there"):
        compute_statistics(tiny(), [1], iter(TEXTS), corpus="texts", out=tmp_path / "s", force=True)
    assert (tmp_path / "s" / "thesis.txt").exists()


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(f"Paragraph {i} about nothing much." for i in range(9000)))
    out = tmp_path / "stats"
    command = [sys.executable, "-m", "formless", "stats", "--corpus", str(corpus), "--layers", "0", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    partial = tmp_path / ".stats.partial.safetensors"
    deadline = time.monotonic() + 120
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert partial.exists()
    assert not out.exists()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    first = result.stderr.split(" texts")[0].split()[-1]
    assert int(first.replace(",", "")) > 1000  # went on, rather than from the start
    assert (out / "layer_0.safetensors").exists()
    assert not partial.exists()


def test_a_basis_for_something_else_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    compute_statistics(lm, [1], iter(TEXTS), corpus="texts", out=tmp_path / "s", threshold=1e-5)
    with pytest.raises(EditError, match="for another model fingerprint"):
        load_projection(tiny(seed=1), tmp_path / "s", 1, 1e-5)
    with pytest.raises(EditError, match="for another threshold: 1e-05, not 0.02"):
        load_projection(lm, tmp_path / "s", 1, 2e-2)
    (tmp_path / "s" / "layer_1.safetensors").rename(tmp_path / "s" / "layer_2.safetensors")
    with pytest.raises(EditError, match="for another layer: 1, not 2"):
        load_projection(lm, tmp_path / "s", 2, 1e-5)
    with pytest.raises(EditError, match="no null space for layer 1"):
        load_projection(lm, tmp_path / "s", 1, 1e-5)
    (tmp_path / "s" / "layer_1.safetensors").write_bytes(b"nothing")
    with pytest.raises(EditError, match="cannot be read"):
        load_projection(lm, tmp_path / "s", 1, 1e-5)


def test_published_matrices_load_as_they_are_and_pickles_do_not(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    path = tmp_path / "null_space_project_layer_1.pt"
    matrix = torch.diag(torch.tensor([1.0] * 20 + [0.0] * 28))
    torch.save(matrix, path)
    projection = load_projection(lm, tmp_path, 1, 2e-2)
    assert isinstance(projection, DenseProjection)
    assert torch.equal(projection.apply(torch.ones(1, 48))[0], matrix.diagonal())
    with pytest.raises(EditError, match="the published projections have the threshold 0.02, not 0.5"):
        load_projection(lm, tmp_path, 1, 0.5)
    torch.save(torch.eye(3), path)
    with pytest.raises(EditError, match=r"the projection is \(3, 3\), not \(48, 48\)"):
        load_projection(lm, tmp_path, 1, 2e-2)
    torch.save(Path("x"), path)
    with pytest.raises(EditError, match="cannot be read"):
        load_projection(lm, tmp_path, 1, 2e-2)


def test_nothing_is_computed_over_an_existing_output(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        compute_statistics(tiny(), [1], iter(TEXTS), corpus="texts", out=tmp_path / "s")
