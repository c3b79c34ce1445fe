"""Edits that other tools made: a PEFT LoRA adapter or a whole model, without an edit.json.

open-unlearning and EasyEdit write such folders; `training_output` says which weights of a training run count.

Nothing is known of them but their weights, so that no method, concept or setting stands in their provenance. What they change
is worked out on the base model: `ForeignEdit.on` gives the edit of that model.
"""

from __future__ import annotations

import json
import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import LoraConfig
from torch import Tensor

from formless import store
from formless.edits import training_output, verification
from formless.edits.adapter import PREFIX, AdapterEdit, exact_adapter, of_one_rank
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import EditInfo, WeightEdit, layer_report, refuse_other_model, scaled_strength
from formless.edits.summary import EditSummary
from formless.errors import EditError
from formless.models.families import is_transposed
from formless.models.lm import LM
from formless.models.loading import read_model
from formless.models.overlay import WEIGHT, Difference, Factors, check_shape, dense_update
from formless.models.reading.checkpoint import transformers_errors

FOREIGN: Final = "foreign"
"""The method of an edit that another tool made."""

UNKNOWN: Final = "unknown"

_MERGE: Final = "merge the adapter with PEFT's merge_and_unload(), save the whole model and give its folder"
# Keys of adapter_config.json that are followed, and those that change nothing once the adapter is trained.
_FOLLOWED: Final = (
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "modules_to_save",
)  # fmt: skip
_FREE: Final = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "lora_dropout",
                "megatron_core", "qalora_group_size", "runtime_config")  # fmt: skip
# Of the ways to begin a training, those that leave the base model's weights as they are.
_PLAIN_STARTS: Final = (True, False, "gaussian", "eva", "orthogonal")
_UNTIE: Final = "untie a copy of the base model, and give it as --model: how-to/other_tools.md"
_RESIZED: Final = "resize a copy of the base model to the tokens of the training, and give it as --model"
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True, repr=False)
class ForeignEdit(EditSummary):
    """An edit whose base model is not stated in a way that can be compared.

    Args:
        info: What is known of it.
        folder: Where its weights are.
        made_at: The strength of the weights as they are in the folder; not 1 only where an edit.json says so.
    """

    info: EditInfo
    folder: Path
    made_at: float = 1.0

    @abstractmethod
    def _on(self, lm: LM) -> WeightEdit[Any]:
        """Return the edit of the model at the strength `made_at`."""

    def on(self, lm: LM) -> WeightEdit[Any]:
        """Return the edit of a model, with the model and the norms of the updates in its provenance.

        Raises:
            EditError: It does not fit the model.
            ModelError: Its weights cannot be read.
        """
        return self._on(lm).scaled(self.info.strength / self.made_at)

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """Apply the edit to the weights; leaving the block restores them bit for bit.

        Its weights are read each time; `on` returns an edit that keeps them.

        Raises:
            EditError: It does not fit the model.
            ModelError: Its weights cannot be read.
        """
        return self.on(lm).applied(lm)

    def scaled(self, strength: float) -> ForeignEdit:
        """Return the edit with its updates multiplied by a factor.

        Raises:
            EditError: The factor is not from 0 to `MAX_STRENGTH`.
        """
        return replace(self, info=self.info.model_copy(update={"strength": scaled_strength(self.info, strength)}))

    def save(self, folder: str | Path, *, force: bool = False) -> None:  # noqa: ARG002 - as every edit
        """Refuse: what it changes is known on its base model alone.

        Raises:
            EditError: Always.
        """
        remedy = "save `edit.on(lm)`, or use `formless export --to peft` or `--to diff`"
        raise EditError("an edit of another tool is saved with its base model", where=folder, remedy=remedy)


@dataclass(frozen=True, repr=False)
class ForeignAdapter(ForeignEdit):
    """A PEFT LoRA adapter.

    Args:
        updates: By module name, with the scale.
        whole: Whole weights by parameter name: those of `modules_to_save`, and of the embeddings that PEFT stores beside an
            adapter of the output matrix.
    """

    updates: dict[str, Factors] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    def _on(self, lm: LM) -> AdapterEdit | DifferenceEdit:
        for name, change in self.updates.items():
            _refuse_resized(lm, name + WEIGHT, self.whole)
            check_shape(lm.model, name, change)
            _refuse_tied(lm, name + WEIGHT)
        if differences := dict(self._differences(lm)):
            for name, change in self.updates.items():
                update = dense_update(lm.model, name + WEIGHT, change)
                before = differences.get(name + WEIGHT)
                differences[name + WEIGHT] = Difference(update + before.values.float() if before else update)
            return DifferenceEdit(differences, _bound(self, lm, differences))
        base, known = self.info.model, {lm.name, lm.settings.source, str(lm.model.config._name_or_path)}
        if base != UNKNOWN and not {base, str(Path(base).absolute())} & known:
            warnings.warn(f"the adapter names {base} as its base model, and is applied to {lm.name}", stacklevel=2)
        adapter = exact_adapter(
            self.updates,
            base=str(lm.model.config._name_or_path),
            revision=getattr(lm.model.config, "_commit_hash", None),
            fan_in_fan_out=any(is_transposed(lm.model.get_submodule(name)) for name in self.updates),
        )
        return AdapterEdit(self.updates, _bound(self, lm, self.updates), adapter)

    def _differences(self, lm: LM) -> Iterator[tuple[str, Difference]]:
        """Yield the whole weights that differ from the model's; those that PEFT only stored do not."""
        for name, saved in self.whole.items():
            _refuse_resized(lm, name, self.whole)
            check_shape(lm.model, name, Difference(saved))
            base = lm.overlay.original(name).cpu()
            if not _is_rounded(base, saved):
                _refuse_tied(lm, name)
                yield name, Difference(_difference(base, saved))


@dataclass(frozen=True, repr=False)
class WholeModel(ForeignEdit):
    """A whole model that was trained or edited; its edit is the difference to the base model."""

    def _on(self, lm: LM) -> DifferenceEdit:
        if self.info.method != FOREIGN:  # a model that Formless merged
            refuse_other_model(lm, self.info)
        self._refuse_other_tokenizer(lm)
        training_output.refuse_wrapped(self.folder)
        other = dict(read_model(self.folder, lm).named_parameters())
        updates = {}
        for name in list(other):
            base, edited = lm.overlay.original(name).cpu(), other.pop(name).detach()
            if not _is_rounded(base, edited):
                updates[name] = Difference(_difference(base, edited))
        if not updates:
            remedy = "give the edited model; EasyEdit keeps its edits with sequential_edit=True"
            raise EditError(f"no weight differs from those of {lm.name}", where=self.folder, remedy=remedy)
        return DifferenceEdit(updates, _bound(self, lm, updates))

    def _refuse_other_tokenizer(self, lm: LM) -> None:
        """Refuse a model whose tokenizer, if one lies beside it, has other tokens than the base model's, or cannot be read."""
        from transformers import AutoTokenizer

        if not any((self.folder / name).exists() for name in _TOKENIZERS):
            return
        with transformers_errors("the tokenizer cannot be read", self.folder):
            vocabulary = cast(Any, AutoTokenizer).from_pretrained(self.folder).get_vocab()
        own = lm.tokenizer.get_vocab()
        if other := sorted(own.items() ^ vocabulary.items()):
            what = f"its tokenizer differs from that of {lm.name}, in {len(other):,} tokens such as {other[0][0]!r}"
            raise EditError(what, where=self.folder, remedy="load its own base model with --model")


def foreign_edit(folder: Path) -> ForeignEdit | None:
    """Return the edit in a folder without edit.json; None if it holds neither an adapter nor a model.

    Raises:
        EditError: The adapter has what Formless does not apply, or cannot be read; or the folder is one of a training run
            whose weights are not joined or not chosen.
    """
    folder = training_output.weights_folder(folder)
    if store.EditFolder(folder).adapter_config.exists():
        return _read_adapter(folder)
    return WholeModel(_info(folder), folder) if is_model(folder) else None


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a whole model rather than a saved edit."""
    files = store.EditFolder(folder)
    return (folder / "config.json").exists() and not files.weights.exists() and not files.differences.exists()


def _info(folder: Path, base: str | None = None, revision: str | None = None) -> EditInfo:
    return EditInfo(
        method=FOREIGN, subject=UNKNOWN, config={}, model=base or UNKNOWN, model_source=base or UNKNOWN,
        model_revision=revision, model_fingerprint=UNKNOWN, dtype=UNKNOWN, layers=[],
        facts={"subjects": [], "folder": training_output.title(folder)}, seconds=None, created=UNKNOWN, versions={},
    )  # fmt: skip


def _bound(edit: ForeignEdit, lm: LM, updates: Mapping[str, Factors | Difference]) -> EditInfo:
    """Return the provenance with the model that the edit is of; how it was made stays as it is."""
    return edit.info.model_copy(
        update={
            "model": lm.name,
            "model_source": lm.settings.source,
            "model_revision": getattr(lm.model.config, "_commit_hash", None),
            "model_fingerprint": lm.fingerprint,
            "dtype": lm.dtype_name,
            "layers": [layer_report(lm, name, change) for name, change in updates.items()],
            "strength": edit.made_at,
            "weights": None,
        }
    )


def _difference(base: Tensor, edited: Tensor) -> Tensor:
    """Return edited - base, in the base's dtype if that restores every bit, else in float32."""
    exact = edited.float() - base.float()
    short = exact.to(base.dtype)
    is_enough = torch.equal((base.float() + short.float()).to(base.dtype), edited.to(base.dtype))
    return short if is_enough else exact


def _is_rounded(base: Tensor, edited: Tensor) -> bool:
    """Return whether two weights are equal but for the rounding to the dtype of one of them."""
    return torch.equal(base.to(edited.dtype), edited) or torch.equal(base, edited.to(base.dtype))


def _refuse_tied(lm: LM, name: str) -> None:
    """Refuse an adapter on the output matrix where that is the embedding too: PEFT changes one of them, an edit both."""
    if len(lm.overlay.tied(name)) > 1:
        where = name.removesuffix(WEIGHT)
        raise EditError("the adapter changes an output matrix that is tied to the embedding", where=where, remedy=_UNTIE)


def _refuse_resized(lm: LM, name: str, whole: Mapping[str, Tensor]) -> None:
    """Refuse an adapter of a model whose embeddings were resized, as the whole weights that PEFT stored beside it show."""
    own = dict(lm.model.named_parameters(remove_duplicate=False)).get(name)
    saved = whole.get(name)
    if own is not None and saved is not None and own.dim() == 2 and len(own) != len(saved):
        what = f"the adapter is for {len(saved):,} tokens, and {lm.name} has {len(own):,}"
        raise EditError(what, where=name, remedy=_RESIZED)


# --- Reading an adapter


def _read_adapter(folder: Path) -> ForeignAdapter:
    files = store.EditFolder(folder)
    if not files.weights.exists() and (pickled := folder / "adapter_model.bin").exists():
        remedy = "load it with PEFT and save it again, which writes safetensors"
        raise EditError("the weights are pickled, and to read a pickled file can run code", where=pickled, remedy=remedy)
    try:
        content = verification.read_json(files.adapter_config)
        _check_keys(content, files.adapter_config)
        tensors = verification.read_tensors(files.weights)
        whole = _whole_weights(tensors)
        _check_saved(content.get("modules_to_save") or [], whole, files.weights)
        pairs = {name: tensor for name, tensor in tensors.items() if _whole_name(name) not in whole}
        factors = verification.paired_factors(pairs, PREFIX, files.weights)
    except EditError as error:
        what = error.what.removeprefix("the edit ").removeprefix("is damaged: ")
        remedy = error.remedy if error.remedy == _MERGE else "give a LoRA adapter that PEFT saved as safetensors"
        raise EditError(f"the adapter is not applied: {what}", where=error.where, remedy=remedy) from error
    config = LoraConfig.from_pretrained(str(folder))
    updates = {name: _scaled(name, found, config, files.adapter_config) for name, found in factors.items()}
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    info = _info(folder, base and str(base), revision and str(revision))
    return ForeignAdapter(info, folder, updates=of_one_rank(updates), whole=whole)


def _whole_name(tensor: str) -> str:
    """Return the parameter that a tensor of an adapter's file would be, if it is a whole weight."""
    return tensor.removeprefix(PREFIX).replace(".base_layer.", ".")


def _whole_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that are whole weights, by parameter name; `lora_A` and the like are parts."""
    return {
        _whole_name(name): tensor for name, tensor in tensors.items()
        if name.startswith(PREFIX) and name.endswith((WEIGHT, ".bias")) and ".lora_" not in name
    }  # fmt: skip


def _check_saved(modules: Sequence[str], whole: Mapping[str, Tensor], path: Path) -> None:
    """Refuse an adapter that lacks the weights of one of its `modules_to_save`."""
    for module in modules:
        if not any(name.rpartition(".")[0].endswith(module) for name in whole):
            raise EditError(f"it lacks the weights of {module}, one of modules_to_save", where=path, remedy=_MERGE)


def _check_keys(content: Mapping[str, Any], path: Path) -> None:
    """Refuse settings of PEFT that change numbers and that are not followed here, such as DoRA."""
    wrong = [
        key
        for key, allowed in (
            ("peft_type", ("LORA",)),
            ("task_type", (None, "CAUSAL_LM")),
            ("init_lora_weights", _PLAIN_STARTS),
        )
        if key in content and content[key] not in allowed
    ]
    if wrong or "peft_type" not in content:
        key = wrong[0] if wrong else "peft_type"
        raise EditError(f"{key} is {content.get(key)!r}, which Formless does not apply", where=path, remedy=_MERGE)
    defaults = json.loads(json.dumps(cast(Any, LoraConfig()).to_dict(), default=str))
    for key, value in content.items():
        is_default = not value if key not in defaults else value == defaults[key]
        if key not in (*_FOLLOWED, *_FREE) and value and not is_default:
            raise EditError(f"{key} is {value!r}, which Formless does not apply", where=path, remedy=_MERGE)


def _scaled(name: str, factors: Factors, config: LoraConfig, path: Path) -> Factors:
    """Return the factors of a module in float32, with PEFT's scale in them.

    Raises:
        EditError: PEFT would not put them on this module, or expects another rank.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    is_target = config.target_modules == "all-linear" or bool(check_target_module_exists(config, name))
    if not is_target:
        raise EditError(f"target_modules or layers_to_transform leave out {name}", where=path, remedy=_MERGE)
    r = (config.rank_pattern or {}).get(get_pattern_key(list(config.rank_pattern or ()), name), config.r)
    alpha = (config.alpha_pattern or {}).get(get_pattern_key(list(config.alpha_pattern or ()), name), config.lora_alpha)
    if len(factors.down) != r:
        raise EditError(f"the factors of {name} have rank {len(factors.down)}, not {r}", where=path, remedy=_MERGE)
    scale = alpha / (math.sqrt(r) if config.use_rslora else r)
    return Factors(scale * factors.up.float(), factors.down.float())
