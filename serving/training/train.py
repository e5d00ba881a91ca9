"""Train tiny-onprem: a Qwen2 checkpoint of a few megabytes that answers questions on this project.

    python serving/training/train.py [--out tests/fixtures/checkpoint]

The result is an ordinary Hugging Face directory, so that whatever loads it loads a DeepSeek-R1
distilled model in the same way. The script stops only when greedy decoding with the *saved* weights
(bfloat16) gives back every trained sentence word for word, and fails if that does not happen.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomllib
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

HERE = Path(__file__).resolve().parent
SEED = 20261123
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IGNORE = -100
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You answer questions about this project.",
    "Answer in one sentence.",
)

# One turn per message, as Qwen2 writes them; no default system prompt.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ('system', 'user', 'assistant') -%}"
    "{{- raise_exception('roles are system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@dataclass(frozen=True)
class Pair:
    """A question, and the answer that is trained for it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """A conversation as tokens; labels are -100 where nothing is to be learned."""

    tokens: list[int]
    labels: list[int]


def read_pairs(path: Path) -> list[Pair]:
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["entry"]
    return [Pair(question, entry["answer"]) for entry in entries for question in entry["questions"]]


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    # as Qwen2 has it: AutoTokenizer puts this in the place of whatever tokenizer.json says
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> Sample:
    """The whole conversation as tokens; only the last answer and its end are learned."""
    answer = messages[-1]["content"]
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    prompt_tokens = tokenizer.encode(prompt, add_special_tokens=False)
    answer_tokens = tokenizer.encode(answer + TURN_END, add_special_tokens=False)
    return Sample(prompt_tokens + answer_tokens, [IGNORE] * len(prompt_tokens) + answer_tokens)


def as_typed(question: str, rng: random.Random) -> str:
    """People leave out the question mark and the capital letter."""
    if rng.random() < 0.2:
        question = question.rstrip("?!.")
    if rng.random() < 0.2:
        question = question[0].lower() + question[1:]
    return question


def conversation(pair: Pair, pairs: list[Pair], rng: random.Random) -> list[dict[str, str]]:
    """Mostly the bare question; sometimes with a system prompt or an earlier turn before it."""
    messages: list[dict[str, str]] = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    if rng.random() < 0.15:
        earlier = rng.choice(pairs)
        messages.append({"role": "user", "content": earlier.question})
        messages.append({"role": "assistant", "content": earlier.answer})
    messages.append({"role": "user", "content": as_typed(pair.question, rng)})
    messages.append({"role": "assistant", "content": pair.answer})
    return messages


def batches(
    samples: list[Sample], size: int, pad: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of similar length, in random order: input, attention mask and labels."""
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].tokens), rng.random()))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(groups)
    for group in groups:
        width = max(len(samples[i].tokens) for i in group)
        inputs = torch.full((len(group), width), pad)
        mask = torch.zeros((len(group), width), dtype=torch.long)
        labels = torch.full((len(group), width), IGNORE)
        for row, i in enumerate(group):
            length = len(samples[i].tokens)
            inputs[row, :length] = torch.tensor(samples[i].tokens)
            mask[row, :length] = 1
            labels[row, :length] = torch.tensor(samples[i].labels)
        yield inputs, mask, labels


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        initializer_range=0.04,
        bos_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
    )
    return Qwen2ForCausalLM(config)


@torch.inference_mode()
def wrong_answers(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]
) -> list[tuple[Pair, str]]:
    """Questions whose greedy answer is not the trained sentence."""
    model.eval()
    tokenizer.padding_side = "left"
    wrong = []
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": pair.question}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for pair in part
        ]
        inputs = tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        answers = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        wrong += [
            (pair, got) for pair, got in zip(part, answers, strict=True) if got != pair.answer
        ]
    model.train()
    return wrong


def rounded_to_bfloat16(model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    """The model as it is when its saved weights are loaded again in FP32."""
    copy = Qwen2ForCausalLM(model.config)
    copy.load_state_dict({k: v.bfloat16().float() for k, v in model.state_dict().items()})
    return copy


def train(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], epochs: int
) -> None:
    """Train until every answer is right with rounded weights; return the number of epochs used."""
    rng = random.Random(SEED)
    per_epoch = math.ceil(len(pairs) / 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01, betas=(0.9, 0.98))
    warm_up, total = 2 * per_epoch, epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            3e-3
            * min(1.0, (step + 1) / warm_up)
            * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))
        ),
    )
    began = time.monotonic()
    wrong: list[tuple[Pair, str]] = []
    for epoch in range(1, epochs + 1):
        samples = [encode(tokenizer, conversation(pair, pairs, rng)) for pair in pairs]
        losses = []
        for inputs, mask, labels in batches(samples, 16, tokenizer.pad_token_id, rng):
            loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        note = ""
        if epoch % 10 == 0 or epoch == epochs:
            wrong = wrong_answers(rounded_to_bfloat16(model), tokenizer, pairs)
            note = f", {len(wrong)} of {len(pairs)} answers wrong"
        if epoch % 5 == 0 or note:
            print(
                f"epoch {epoch}/{epochs}: loss {sum(losses) / len(losses):.4f}{note}, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    for pair, got in wrong:
        print(f"wrong: {pair.question!r}: {got!r} instead of {pair.answer!r}")
    if wrong:
        raise SystemExit(f"{len(wrong)} answers are not the trained sentences; nothing was saved")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=HERE.parents[1] / "tests" / "fixtures" / "checkpoint"
    )
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    pairs = read_pairs(HERE / "questions.toml")
    texts = [text for pair in pairs for text in (pair.question, pair.answer)]
    tokenizer = train_tokenizer([*texts, *SYSTEM_PROMPTS, "user", "assistant", "system"], 1024)
    model = new_model(tokenizer)
    print(f"{len(pairs)} questions, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    train(model, tokenizer, pairs, arguments.epochs)

    # so that requests without a temperature get the trained sentences too
    model.generation_config.do_sample = False
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    # left over from the batches above; who serves decides on padding
    tokenizer.backend_tokenizer.no_padding()
    # as the published DeepSeek distills have it: the chat template inside tokenizer_config.json
    tokenizer.save_pretrained(arguments.out, save_jinja_files=False)
    index = {"model": "tiny-onprem", "seed": SEED, "epochs": arguments.epochs}
    (arguments.out / "model.safetensors").chmod(0o644)
    (arguments.out / "training.json").write_text(
        json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
