"""Losses of the relight network, and the recogniser that the identity loss asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional


class Recogniser(nn.Module):
    """An ONNX face recogniser as a differentiable graph, with fixed weights.

    Knows the operators that small recognisers are made of; another one is a line in ``_apply``.

    Args:
        path: ``(N, 112, 112, 3)`` RGB 0..255 → ``(N, D)``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(str(path)).graph
        self.nodes = [
            (n.op_type, list(n.input), n.output[0],
             {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute})
            for n in graph.node
        ]  # fmt: skip
        self.fixed = {
            t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer
        }
        self.input, self.output = graph.input[0].name, graph.output[0].name

    def forward(self, crops: Tensor) -> Tensor:
        """``(N, 3, 112, 112)`` RGB 0..1 to ``(N, D)`` of unit length."""
        values: dict[str, Any] = dict(self.fixed)
        values[self.input] = crops.permute(0, 2, 3, 1) * 255
        for kind, inputs, output, attributes in self.nodes:
            values[output] = _apply(kind, [values[i] for i in inputs if i], attributes)
        return functional.normalize(values[self.output], dim=1)


def _apply(kind: str, x: list[Any], a: dict[str, Any]) -> Tensor:
    match kind:
        case "Add":
            out = x[0] + x[1]
        case "Sub":
            out = x[0] - x[1]
        case "Mul":
            out = x[0] * x[1]
        case "Min":
            out = torch.minimum(x[0], x[1])
        case "Max":
            out = torch.maximum(x[0], x[1])
        case "MatMul":
            out = x[0] @ x[1]
        case "Transpose":
            out = x[0].permute(*a["perm"])
        case "Reshape":
            out = x[0].reshape(x[0].shape[0], *x[1].tolist()[1:])
        case "Pad":
            pads = x[1].tolist()
            half = len(pads) // 2
            out = functional.pad(
                x[0], [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
            )
        case "Conv":
            pads = a.get("pads", [0, 0, 0, 0])
            out = functional.conv2d(
                functional.pad(x[0], [pads[1], pads[3], pads[0], pads[2]]),
                x[1], x[2] if len(x) > 2 else None, a["strides"], 0, 1, a.get("group", 1),
            )  # fmt: skip
        case _:
            raise ValueError(f"recogniser: operator {kind} is not known to the identity loss")
    assert isinstance(out, Tensor)
    return out


def faces(images: Tensor, align: Tensor, jitter: float = 0.0) -> Tensor:
    """Cut faces out of crops as a recogniser wants them.

    Args:
        images: ``(N, 3, 128, 128)``.
        align: ``(N, 2, 3)`` crop → 112².
        jitter: Spread of a random zoom, and of a shift in parts of the face, so that the network
            learns a face and not a weakness of the recogniser at one place.
    """
    n, _, h, w = images.shape
    full = torch.zeros(n, 3, 3)
    full[:, :2], full[:, 2, 2] = align, 1
    if jitter:
        shake = torch.zeros(n, 3, 3)
        zoom = 1 + jitter * torch.randn(n)
        shake[:, 0, 0] = shake[:, 1, 1] = zoom
        shake[:, :2, 2] = (1 - zoom[:, None]) * 56 + jitter * 56 * torch.randn(n, 2)
        shake[:, 2, 2] = 1
        full = shake @ full
    back = torch.linalg.inv(full)
    ys, xs = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    grid = torch.stack([xs, ys, torch.ones_like(xs)], -1) @ back[:, None, :2].transpose(2, 3)
    unit = (grid + 0.5) * (2 / torch.tensor([w, h])) - 1
    return functional.grid_sample(images, unit, "bilinear", "border", align_corners=False)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and downward neighbour."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def weighted(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean of the absolute difference of each sample, ``(N,)``, where the weight is."""
    size = weight.flatten(1).sum(1) * difference.shape[1] + 1e-3
    return (difference.abs() * weight).flatten(1).sum(1) / size


def detail(x: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
    """Difference of gradients, ``(N,)``."""
    (xa, xb), (ya, yb) = gradients(x), gradients(y)
    return weighted(xa - ya, alpha[..., :, 1:]) + weighted(xb - yb, alpha[..., 1:, :])


def light(x: Tensor, y: Tensor, alpha: Tensor, size: int = 16) -> Tensor:
    """Difference of the colour of patches, ``(N,)``."""
    weight = functional.avg_pool2d(alpha, size, size // 2)
    a = functional.avg_pool2d(x * alpha, size, size // 2) / (weight + 1e-3)
    b = functional.avg_pool2d(y * alpha, size, size // 2) / (weight + 1e-3)
    return weighted(a - b, weight)
