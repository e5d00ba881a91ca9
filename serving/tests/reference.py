"""transformers, which the exported graph must agree with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from support import CHECKPOINT
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

# small, and no two sizes alike that a mistake could take for each other
SMALL: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "eos_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 12},
}


class Reference:
    """A checkpoint in transformers, in FP32."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """[len(tokens), vocabulary], after each token."""
        with torch.inference_mode():
            output = self.model(input_ids=torch.tensor([tokens])).logits[0]
        return np.asarray(output.numpy(), dtype=np.float32)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """`count` tokens, without a stop at the end of the sequence."""
        tokens = list(prompt)
        for _token in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]


class EncoderReference:
    """A text encoder in transformers, in FP32."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
        self.model.eval()

    def states(self, **inputs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
            output = self.model(**tensors).last_hidden_state
        return np.asarray(output.numpy(), dtype=np.float32)


def save_random(
    model: Any, folder: Path, *, shard_size: str = "1GB", dtype: str = "float32"
) -> None:
    """Save `model` with weights from which a mistake cannot hide, and a tokenizer beside it."""
    for name, parameter in model.named_parameters():
        # biases and norms start at zero and one
        if name.endswith("bias") or "norm" in name.lower():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CHECKPOINT / name, folder / name)


def random_checkpoint(
    folder: Path,
    architecture: str = "Qwen2ForCausalLM",
    *,
    shard_size: str = "1GB",
    dtype: str = "float32",
    **config: Any,
) -> Path:
    """A decoder with random weights and biases, as transformers saves it."""
    torch.manual_seed(7)
    kind = getattr(transformers, architecture)
    settings = kind.config_class(**{**SMALL, **FAMILIES[architecture], **config})
    save_random(kind(settings), folder, shard_size=shard_size, dtype=dtype)
    return folder


def cross_encoder(folder: Path, family: str, **changes: Any) -> Path:
    """A checkpoint of BERT's or XLM-RoBERTa's reranker with random weights."""
    torch.manual_seed(7)
    sizes: dict[str, Any] = {
        "vocab_size": 1024,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "num_labels": 1,
        "type_vocab_size": 2 if family == "bert" else 1,
        **changes,
    }
    model = (
        BertForSequenceClassification(BertConfig(**sizes))
        if family == "bert"
        else XLMRobertaForSequenceClassification(XLMRobertaConfig(**sizes))
    )
    save_random(model, folder)
    return folder
