"""An ONNX file without weights of its own: they stay in the .safetensors file in half precision beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from sohes.errors import SohesError
from sohes.work.files import atomic_path


def share_weights(graph: Path, weights: Path) -> None:
    """Rewrite an exported file so that it reads its weights from `weights`, which must lie in the same folder.

    A weight is found by its values, as the export may have turned a matrix. What the export has computed from no weight
    alone, such as the embeddings of positions, stays in the file, once. SohesError for a file of other weights.
    """
    model = onnx.load(graph)
    tensors, places = load_file(weights), dict(_places(weights))
    known: dict[bytes, tuple[str, bool]] = {}  # values -> name of the tensor, and whether they are those turned
    for name, tensor in tensors.items():
        known[_key(tensor.astype(np.float32))] = (name, False)
        if tensor.ndim == 2:
            known.setdefault(_key(tensor.T.astype(np.float32)), (name, True))
    nodes, kept, first = [], [], {}
    renamed: dict[str, str] = {}
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        same = _key(values)
        if same in known:
            nodes += _restored(initializer.name, *known[same])
        elif initializer.name.removeprefix("network.") in tensors:
            raise SohesError(f"{graph} was not made of {weights}: they differ in {initializer.name}")
        elif same in first:
            renamed[initializer.name] = first[same]
        else:
            first[same] = initializer.name
            kept.append(initializer)
    used = sorted({node.input[0] for node in nodes if node.op_type == "Cast"})
    halves = [_external(name, tensors[name].shape, weights.name, *places[name]) for name in used]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    whole = [*nodes, *model.graph.node]
    for node in whole:  # where each came from in Python takes more room than the nodes
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field, values in (("node", whole), ("initializer", [*kept, *halves]), ("value_info", [])):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(values)
    with atomic_path(graph) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _key(values: np.ndarray) -> bytes:
    return f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes()


def _restored(name: str, tensor: str, turned: bool) -> list[onnx.NodeProto]:
    """Nodes that make float32 `name` of a tensor; onnxruntime runs them once, when the file is opened."""
    if not turned:
        return [helper.make_node("Cast", [tensor], [name], to=onnx.TensorProto.FLOAT)]
    wide = f"{name}.wide"
    cast = helper.make_node("Cast", [tensor], [wide], to=onnx.TensorProto.FLOAT)
    return [cast, helper.make_node("Transpose", [wide], [name], perm=[1, 0])]


def _external(name: str, shape: tuple[int, ...], file: str, offset: int, length: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT16)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _places(weights: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, and where its bytes lie: offset and length. The format: 8 bytes of length, a header in JSON, the bytes."""
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, (8 + size + begin, end - begin)
