"""What benchmarks/gpu_engine.py measures with: graphs, an INT8 one, and ONNX Runtime's answers.

`prepare` runs in the environment of the serving tests; the rest needs NumPy and nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

BATCH, WIDTH = 8, 64
# a batch that fills the GPU, for what a precision is worth
LARGE_BATCH, LARGE_WIDTH = 32, 128
SLOTS, CHUNK, STEPS = 8, 64, 48
CALIBRATION, JUDGED = 96, 64


def sentences(files: list[Path], tokenizer: Any) -> list[list[int]]:
    """Token ids of the longer lines, as the encoder gets them, none twice."""
    parts: list[str] = []
    for file in files:
        parts += [part.strip() for part in file.read_text(encoding="utf-8").splitlines()]
    unique = dict.fromkeys(part for part in parts if len(part) > 40)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(unique))]


def quantize(folder: Path, texts: list[list[int]]) -> None:
    """INT8 matrices with explicit Q/DQ by ONNX Runtime's quantizer; weights stay where they are."""
    import onnx
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(texts)

        def get_next(self) -> dict[str, Any] | None:
            tokens = next(self.batches, None)
            if tokens is None:
                return None
            ids = np.array([tokens], dtype=np.int64)
            return {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }

    source, target = folder / "encoder.onnx", folder / "encoder_int8.onnx"
    weights = {t.name for t in onnx.load(source, load_external_data=False).graph.initializer}
    # what leaves GELU has outliers: with those six matrices the lowest cosine falls to 0.6
    matrices = [
        node.name
        for node in onnx.load(source, load_external_data=False).graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and ("attention" in node.name or "intermediate" in node.name)
    ]
    q.quantize_static(
        source,
        target,
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=matrices,
        per_channel=True,
        activation_type=q.QuantType.QInt8,
        weight_type=q.QuantType.QInt8,
        calibrate_method=q.CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QDQDisableWeightAdjustForInt32Bias": True,
        },
    )
    outside = {
        tensor.name: tensor
        for tensor in onnx.load(source, load_external_data=False).graph.initializer
    }
    model = onnx.load(target)
    kept = [outside.get(tensor.name, tensor) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    target.write_bytes(model.SerializeToString())


def greedy(engine: Any, prompts: list[list[int]], chunk: int) -> list[list[int]]:
    """Every prompt in a slot, prefilled in chunks, decoded together."""
    found = []
    for slot, prompt in enumerate(prompts):
        for start in range(0, len(prompt), chunk):
            candidates = engine.prefill(slot, prompt[start : start + chunk], start)
        found.append([int(candidates.tokens[0, 0])])
    for step in range(STEPS):
        last = [tokens[-1] for tokens in found]
        candidates = engine.decode(last, [len(prompt) + step for prompt in prompts])
        for tokens, token in zip(found, candidates.tokens[:, 0], strict=True):
            tokens.append(int(token))
    return found


def prepare(arguments: argparse.Namespace) -> None:
    from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEncoder, OnnxRuntimeEngine
    from lowering import lower
    from tokenizers import Tokenizer

    out: Path = arguments.folder
    out.mkdir(parents=True, exist_ok=True)
    for name in ("encoder.onnx", "encoder.onnx.data"):
        shutil.copyfile(arguments.encoder / name, out / name)
    tokenizer = Tokenizer.from_file(str(arguments.encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LARGE_WIDTH)
    texts = sentences(arguments.texts, tokenizer)
    if len(texts) < CALIBRATION + JUDGED:
        raise SystemExit(f"{len(texts)} lines; {CALIBRATION + JUDGED} are needed")
    texts = [texts[int(place)] for place in np.random.default_rng(7).permutation(len(texts))]
    judged = texts[CALIBRATION : CALIBRATION + JUDGED]
    quantize(out, texts[:CALIBRATION])
    encoder = OnnxRuntimeEncoder(arguments.encoder)
    records = {
        name: json.loads((folder / "export.json").read_text(encoding="utf-8"))
        for name, folder in (("encoder", arguments.encoder), ("decoder", arguments.decoder))
    }
    lower(arguments.decoder / "decoder.onnx", records["decoder"], out / "decoder.onnx")
    chat = Tokenizer.from_file(str(arguments.decoder / "tokenizer.json"))
    prompts = [chat.encode(text).ids for text in arguments.prompts]
    engine = OnnxRuntimeEngine(arguments.decoder, slots=SLOTS)
    facts = {
        "records": records,
        "judged": judged,
        "embeddings": encoder.embed(judged).tolist(),
        "prompts": prompts,
        "answers": greedy(engine, prompts, CHUNK),
        "int8_cosine_onnxruntime": int8_cosine(out, judged, encoder.embed(judged)),
    }
    (out / "facts.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


def int8_cosine(folder: Path, texts: list[list[int]], expected: Any) -> float:
    """What the quantisation itself costs, before any GPU."""
    import onnxruntime as ort

    session = ort.InferenceSession(
        str(folder / "encoder_int8.onnx"), providers=["CPUExecutionProvider"]
    )
    lowest = 1.0
    for tokens, row in zip(texts, expected, strict=True):
        ids = np.array([tokens], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
        (found,) = session.run(["embedding"], inputs)
        lowest = min(lowest, float(cosines(found, row[None])[0]))
    return lowest


def cosines(found: Any, expected: Any) -> Any:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return (found * expected).sum(axis=1) / lengths
