"""Reads TensorFlow.js graph models (float16 weights) and writes their operations as ONNX."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np

from build_models.graph import Array, Graph

_SIZES = {"float16": np.float16, "int32": np.int32, "float32": np.float32}


class Source:
    """A parsed model; ``emit`` writes what one of its tensors depends on into a Graph.

    Attributes:
        value: Node name → constant, or the name that its result has in the new graph. Setting an
            entry cuts the network there.
    """

    def __init__(self, topology: bytes, weights: bytes) -> None:
        """Parse the ``.json`` and ``.bin`` file of a model.

        Raises:
            ValueError: The weights are longer or shorter than the manifest says.
        """
        spec = json.loads(topology)
        self._node = {node["name"]: node for node in spec["modelTopology"]["node"]}
        self._uses: dict[str, int] = {}
        self.value: dict[str, Any] = {}
        for node in self._node.values():
            for name in node.get("input", []):
                self._uses[name] = self._uses.get(name, 0) + 1
        offset = 0
        for entry in spec["weightsManifest"][0]["weights"]:
            stored = _SIZES[entry.get("quantization", entry)["dtype"]]
            count = math.prod(entry["shape"])
            flat = np.frombuffer(weights, stored, count, offset)
            offset += flat.nbytes
            kept = np.int32 if entry["dtype"] == "int32" else np.float32
            self.value[entry["name"]] = flat.astype(kept).reshape(entry["shape"])
        if offset != len(weights):
            raise ValueError(f"weights: {len(weights)} bytes, the manifest describes {offset}")

    def inputs(self, name: str) -> list[str]:
        """The inputs of a node."""
        return list(self._node[name]["input"])

    def emit(self, name: str, graph: Graph) -> Any:
        """Write everything that node ``name`` needs, once, and return its constant or name.

        Raises:
            ValueError: An operation without a rule, or used in a way that the rule leaves out.
        """
        todo = [name]
        while todo:
            node = self._node[todo[-1]]
            missing = [i for i in node.get("input", []) if i not in self.value]
            if todo[-1] in self.value:
                todo.pop()
            elif missing:
                todo += missing
            else:
                self.value[todo.pop()] = self._rule(node, graph)
        return self.value[name]

    def emit_side_by_side(self, names: tuple[str, ...], graph: Graph) -> str:
        """Write equal branches as one, with their channels one behind another.

        Small networks cost more by the number of operations than by arithmetic. Where branches
        are still one network, the common part is written once and its channels are repeated.

        Args:
            names: The node of each branch; all of one shape. Where the branches begin,
                ``value`` must hold an entry for the tuple of their first inputs.

        Returns:
            Name of the feature map that holds all of them.
        """
        if names in self.value:
            return str(self.value[names])
        once = tuple(dict.fromkeys(names))
        if once != names:
            common = self.emit_side_by_side(once, graph)
            each = graph.shape[common][0] // len(once)
            starts = np.array([once.index(name) * each for name in names])
            channels = (starts[:, None] + np.arange(each)).ravel()
            self.value[names] = graph.take_channels(common, channels)
            return str(self.value[names])
        nodes = [self._node[name] for name in names]
        kind = nodes[0]["op"]
        maps, weights = [], []
        for inputs in zip(*(node["input"] for node in nodes), strict=True):
            if isinstance(self.value.get(inputs[0]), np.ndarray):
                weights.append([self.value[i] for i in inputs])
            else:
                maps.append(self.emit_side_by_side(inputs, graph))
        self.value[names] = self._joint_rule(kind, nodes, maps, weights, graph)
        return str(self.value[names])

    def _joint_rule(
        self,
        kind: str,
        nodes: list[dict[str, Any]],
        maps: list[str],
        weights: list[list[Array]],
        graph: Graph,
    ) -> str:
        count = len(nodes)
        if any(node["op"] != kind for node in nodes):
            raise ValueError(f"{nodes[0]['name']}: branches differ")
        if kind in {"Conv2D", "DepthwiseConv2dNative"}:
            deep = kind == "DepthwiseConv2dNative"
            turned = [w.transpose((2, 3, 0, 1) if deep else (3, 2, 0, 1)) for w in weights[0]]
            stacked = np.concatenate(turned)
            return graph.conv(
                maps[0],
                stacked,
                stride=_integers(nodes[0], "strides")[1],
                same=base64.b64decode(nodes[0]["attr"]["padding"]["s"]) == b"SAME",
                group=len(stacked) if deep else count,
            )
        if kind in {"AddV2", "AddN"} and weights:
            return graph.bias(maps[0], np.concatenate([w.ravel() for w in weights[0]]))
        if kind in {"AddV2", "AddN"}:
            return graph.same_shape("Add", *maps)
        if kind == "Prelu":
            return graph.prelu(maps[0], np.concatenate([w.ravel() for w in weights[0]]))
        if kind == "MaxPool":
            sizes = (_integers(nodes[0], key)[1] for key in ("ksize", "strides"))
            return graph.max_pool(maps[0], *sizes)
        if kind == "Pad":
            return graph.pad_channels(maps[0], int(weights[0][0][3, 1]) * count, group=count)
        raise ValueError(f"{nodes[0]['name']}: no rule for {kind} side by side")

    def _rule(self, node: dict[str, Any], graph: Graph) -> Any:
        kind = node["op"]
        args = [self.value[i] for i in node["input"]]
        if kind in {"Conv2D", "DepthwiseConv2dNative"}:
            strides = _integers(node, "strides")
            weight = args[1]  # (h, w, I, O), or (h, w, channels, 1) for a depthwise one
            deep = kind == "DepthwiseConv2dNative"
            if strides[1] != strides[2] or (deep and weight.shape[3] != 1):
                raise ValueError(f"{node['name']}: unequal strides or a channel multiplier")
            return graph.conv(
                args[0],
                weight.transpose((2, 3, 0, 1) if deep else (3, 2, 0, 1)),
                stride=strides[1],
                same=base64.b64decode(node["attr"]["padding"]["s"]) == b"SAME",
                group=weight.shape[2] if deep else 1,
            )
        if kind in {"Add", "AddV2", "AddN"} and len(args) == 2:
            (constant, x) = args if isinstance(args[0], np.ndarray) else (args[1], args[0])
            if isinstance(constant, np.ndarray):
                return graph.bias(x, constant)
            return graph.same_shape("Add", *args)
        if kind == "Mul" and isinstance(args[1], np.ndarray) and args[1].ndim == 1:
            return graph.scale(args[0], args[1])
        if kind == "Prelu":
            return graph.prelu(args[0], args[1])
        if kind == "Relu":
            return graph.same_shape("Relu", args[0])
        if kind == "Minimum" and args[1] == 6:
            return graph.relu6(args[0])
        if kind == "Maximum" and args[1] == 0:  # behind a Relu: changes nothing
            return args[0]
        if kind == "MaxPool":
            return graph.max_pool(
                args[0], _integers(node, "ksize")[1], _integers(node, "strides")[1]
            )
        if kind == "Pad" and args[1].sum() == args[1][3, 1]:
            return graph.pad_channels(args[0], int(args[1][3, 1]))
        raise ValueError(f"{node['name']}: no rule for {kind}")


def _integers(node: dict[str, Any], key: str) -> list[int]:
    return [int(i) for i in node["attr"][key]["list"]["i"]]


def constant(source: Source, name: str) -> Array:
    """A constant of the model by name."""
    value = source.value[name]
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} is not a constant")
    return value
