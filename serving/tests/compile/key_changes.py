"""What is changed of an engine's inputs, and the reason that the rebuild then gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import onnx
from engines import CPU, Place, edit

from deepseek_serving.compile.compiler import Options
from deepseek_serving.compile.key import read_fields
from deepseek_serving.compile.target import Wish


def _rewrite_graph(place: Place) -> dict[str, Any]:
    model = onnx.load(place.graph, load_external_data=False)
    model.doc_string = "another"
    place.graph.write_bytes(model.SerializeToString())
    return {}


def _append_to_weights(place: Place) -> dict[str, Any]:
    with place.graph.with_name("decoder.onnx.data").open("ab") as file:
        file.write(b"\0")
    return {}


def _other_tool(place: Place) -> dict[str, Any]:
    edit(place.record, lambda record: record["preparation"]["tools"].update(numpy="2.0.0"))
    return {}


def _other_argument(place: Place) -> dict[str, Any]:
    edit(place.record, lambda record: record["preparation"]["arguments"].update(window=256))
    return {}


def _own_profiles(place: Place) -> dict[str, Any]:
    """One profile in place of two."""
    (profile, _prefill) = read_fields(place.dest / "key.json")["builder"]["profiles"]
    path = place.folder / "profiles.json"
    path.write_text(json.dumps([profile]))
    return {"profiles": path}


CHANGES: dict[str, tuple[Callable[[Place], dict[str, Any]], str]] = {
    "graph": (_rewrite_graph, 'graph.decoder.onnx was "{graph}", is "'),
    "weights": (_append_to_weights, 'graph.decoder.onnx.data was "{weights}", is "'),
    "tool": (_other_tool, 'preparation.tools.numpy was "{numpy}", is "2.0.0"'),
    "argument": (_other_argument, "preparation.arguments.window was 512, is 256"),
    "slots": (
        lambda place: {"slots": 2},
        "builder.profiles.0.input_ids.max was [4, 1], is [2, 1]; "
        "builder.profiles.0.input_ids.opt was [4, 1], is [2, 1]; "
        "builder.profiles.0.past_key.0.max was [4, 2, 512, 32], is [2, 2, 512, 32]; ",
    ),
    "prefill chunk": (
        lambda place: {"prefill_chunk": 64},
        "builder.profiles.1.input_ids.max was [1, 128], is [1, 64]; "
        "builder.profiles.1.input_ids.opt was [1, 128], is [1, 64]; "
        "builder.profiles.1.position_ids.max was [1, 128], is [1, 64]; "
        "builder.profiles.1.position_ids.opt was [1, 128], is [1, 64]",
    ),
    "profiles": (_own_profiles, "builder.profiles.1.input_ids.max was [1, 128], is not there; "),
    "workspace": (
        lambda place: {"options": Options(workspace_bytes=2**28)},
        "builder.workspace_bytes was none, is 268435456",
    ),
    "optimization level": (
        lambda place: {"options": Options(optimization_level=2)},
        "builder.optimization_level was none, is 2",
    ),
    "flag": (
        lambda place: {"options": Options(flags=("WEIGHT_STREAMING",))},
        'builder.flags was [], is ["WEIGHT_STREAMING"]',
    ),
    "compute capability": (
        lambda place: {"wish": Wish("tensorrt_rtx", "8.6")},
        'target.compute_capability was "8.0", is "8.6"',
    ),
    "flavour": (lambda place: {"wish": CPU}, "cuda_major was 13, is none; "),
}
