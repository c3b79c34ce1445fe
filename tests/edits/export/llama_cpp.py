"""The real llama.cpp, from the package xllamacpp."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import xllamacpp
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from torch import Tensor

from formless.edits.export.gguf import copy_metadata


class LlamaCpp:
    """llama-server with a GGUF file, on one CPU thread.

    Args:
        model: The GGUF file.
        adapter: A LoRA adapter to apply.
        scale: The adapter's scale, as `--lora-scaled` takes it.
        cache: The type of the attention's cache; llama.cpp's own default is F16.
    """

    def __init__(self, model: Path, adapter: Path | None = None, *, scale: float = 1.0, cache: str = "F32") -> None:
        settings = xllamacpp.CommonParams()
        settings.model.path = str(model)
        settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads, settings.cpuparams_batch.n_threads = 512, 1, 1, 1
        settings.warmup, settings.cache_prompt, settings.fit_params, settings.verbosity = False, False, False, -1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{cache}"]
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if adapter:
            settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), scale)]
        self._server = xllamacpp.Server(settings)  # it ends with this object
        self._address = urlsplit(self._server.listening_address).netloc

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a prompt, with BOS where the file wants it."""
        return self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Return the new tokens, up to the end token and without it."""
        answer = self._complete(prompt, n_predict=tokens, return_tokens=True)
        return answer["tokens"][:-1] if answer["stop_type"] == "eos" else answer["tokens"]

    def next_tokens(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """Return the most probable token at each place of an answer, given the prompt and the answer's tokens before it."""
        texts = [[*prompt, *answer[:place]] for place in range(len(answer))]
        return [self._complete(text, n_predict=1, return_tokens=True, cache_prompt=True)["tokens"][0] for text in texts]

    def log_probabilities(self, prompt: Sequence[int], vocabulary: int, **options: Any) -> Tensor:
        """Return the log probability of each next token, `[vocabulary]`."""
        # A letter follows: a part of one would have no probabilities.
        answer = self._complete(prompt, n_predict=1, n_probs=vocabulary, logit_bias=[[3, 1000.0]], **options)
        found = torch.full((vocabulary,), torch.nan)
        for each in answer["completion_probabilities"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found

    def _complete(self, prompt: Sequence[int], **options: Any) -> Any:
        return self._post("/completion", {"prompt": list(prompt), "temperature": 0, **options})

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=120)
        connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 200, answer
        return answer


def write_in_float32(source: Path, out: Path) -> Path:
    """Write a GGUF file with the weights that another has after it is turned into float32, as Formless computes with them."""
    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
