"""transformers, which the exported graph must agree with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from support import CHECKPOINT
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM


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


def random_checkpoint(folder: Path, *, shard_size: str = "1GB", **config: Any) -> Path:
    """A Qwen2 checkpoint with random weights and biases, as transformers saves it."""
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "vocab_size": 131,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "eos_token_id": 1,
    }
    model = Qwen2ForCausalLM(Qwen2Config(**{**defaults, **config}))
    for name, parameter in model.named_parameters():
        # biases and norms start at zero and one, which would hide a mistake
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder, max_shard_size=shard_size)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CHECKPOINT / name, folder / name)
    return folder
