"""A tagger's graph that sees the mean colour: one tag for each channel as it comes in, and fixed ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS = (
    # name, category, weights of the channels (mean 0 to 255), bias: probability = sigmoid(weights · mean + bias)
    ("general", 9, (0.0, 0.0, 0.0), 1.0),
    ("sensitive", 9, (0.0, 0.0, 0.0), 2.0),
    ("first_channel", 0, (0.1, 0.0, 0.0), -12.75),
    ("last_channel", 0, (0.0, 0.0, 0.1), -12.75),
    ("^_^", 0, (0.0, 0.0, 0.0), 5.0),
    ("robot_(tin)", 4, (0.0, 0.0, 0.0), 0.0),
    ("rare_thing", 0, (0.0, 0.0, 0.0), -1.0),
)


def tiny_tagger(folder: Path, side: int = 8, batch: int | str = "N", channels: int = 3, rows: int = len(ROWS)) -> Path:
    """Make model.onnx and selected_tags.csv.

    Args:
        batch: a number where the graph takes no other.
        rows: of selected_tags.csv.
    """
    folder.mkdir(parents=True)
    weights = np.array([row[2] for row in ROWS], np.float32).T[:channels]
    bias = np.array([row[3] for row in ROWS], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["tags"]),
    ]
    constants = {"axes": np.array([1, 2], np.int64), "weights": weights, "bias": bias}
    graph = helper.make_graph(
        nodes, "tagger",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, side, side, channels])],
        [helper.make_tensor_value_info("tags", TensorProto.FLOAT, [batch, len(ROWS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx"
    )
    lines = [f"{number},{name},{category},100" for number, (name, category, *_) in enumerate(ROWS[:rows])]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *lines]) + "\n")
    return folder
