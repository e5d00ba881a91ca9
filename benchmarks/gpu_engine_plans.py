"""What benchmarks/gpu_engine.py runs: plans of this machine's TensorRT for this machine's GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_engine_graphs import BATCH, CHUNK, LARGE_BATCH, LARGE_WIDTH, SLOTS, WIDTH


class Builder:
    """Engines of this machine's TensorRT for this machine's GPU."""

    def __init__(self) -> None:
        import tensorrt as trt

        self.trt = trt
        self.log = trt.Logger(trt.Logger.WARNING)

    def build(self, graph: Path, profiles: list[dict[str, Any]], precision: str) -> bytes:
        trt = self.trt
        builder = trt.Builder(self.log)
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        network = builder.create_network(0 if explicit is None else 1 << int(explicit))
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(graph)):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise RuntimeError(f"{graph.name}: " + "; ".join(errors))
        config = builder.create_builder_config()
        self._configure(config, precision)
        for shapes in profiles:
            profile = builder.create_optimization_profile()
            for index in range(network.num_inputs):
                tensor = network.get_input(index)
                profile.set_shape(tensor.name, *shapes[tensor.name])
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError(f"{graph.name} in {precision}: TensorRT built nothing")
        return bytes(plan)

    def _configure(self, config: Any, precision: str) -> None:
        """Without TF32, so that FP32 is FP32, and without libraries beside TensorRT."""
        trt = self.trt
        config.clear_flag(trt.BuilderFlag.TF32)
        for flag in {"fp16": ["FP16"], "int8": ["FP16", "INT8"]}.get(precision, []):
            config.set_flag(getattr(trt.BuilderFlag, flag))
        sources = trt.TacticSource
        if hasattr(sources, "JIT_CONVOLUTIONS"):
            config.set_tactic_sources(
                1 << int(sources.EDGE_MASK_CONVOLUTIONS) | 1 << int(sources.JIT_CONVOLUTIONS)
            )
        # what newer releases do without being asked
        features = getattr(trt, "PreviewFeature", None)
        for name in ("DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", "PROFILE_SHARING_0806"):
            if hasattr(features, name):
                config.set_preview_feature(getattr(features, name), True)


def encoder_profiles() -> list[dict[str, Any]]:
    shapes = [(1, 1), (BATCH, WIDTH), (LARGE_BATCH, LARGE_WIDTH)]
    return [dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), shapes)]


def decoder_profiles(record: dict[str, Any]) -> list[dict[str, Any]]:
    cache, length = record["cache"], record["parameters"]["max_len"]

    def profile(batch: int, width: int) -> dict[str, Any]:
        two = [(1, 1), (batch, width), (batch, width)]
        one = [(1,), (batch,), (batch,)]
        rows = [(n, cache["kv_heads"], length, cache["head_dim"]) for n in (1, batch, batch)]
        names = [f"past_{kind}.{n}" for kind in ("key", "value") for n in range(cache["layers"])]
        return {
            "input_ids": two,
            "position_ids": two,
            "write_indices": one,
            **dict.fromkeys(names, rows),
        }

    return [profile(SLOTS, 1), profile(1, CHUNK)]
