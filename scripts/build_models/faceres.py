"""Converts the face embedder and puts a linear map to 512 numbers behind it.

The source is a MobileNet v1 with heads for age and gender; the heads are left out. Its mean pooled
features are scaled to unit length, the mean of many faces is taken off, and the rest is projected
onto its first 512 principal components and scaled to unit length again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper

from build_models.graph import Array, Graph
from build_models.tfjs import Source

SIZE = 224
MEAN_BGR = (103.94, 116.78, 123.68)
POOL = "global_pooling/Mean"
FIRST = "conv1/convolution/merged_input"


def convert(
    topology: bytes, weights: bytes, projection: tuple[Array, Array] | None, description: str
) -> onnx.ModelProto:
    """Rewrite the network: input ``image`` (RGB 0..255), output ``embedding``.

    Args:
        topology: The ``.json`` file.
        weights: The ``.bin`` file.
        projection: Components ``(1024, 512)`` and offset ``(512,)``; None gives the features
            themselves, of unit length, on which a projection is fitted.
        description: Stored in the new file.
    """
    source, graph = Source(topology, weights), Graph()
    source.value[FIRST] = source.value[FIRST][:, :, ::-1]  # trained on BGR
    image = graph.image("image", SIZE)
    mean = graph.const(np.array(MEAN_BGR[::-1]).reshape(3, 1, 1))
    source.value["input_1"] = graph.same_shape("Sub", image, mean)
    last = source.emit("conv_pw_13_relu/clip_by_value", graph)
    pooled = graph.add("GlobalAveragePool", last)
    features = graph.add("Flatten", pooled)
    length = 1024
    if projection is not None:
        features = graph.add("LpNormalization", features, axis=1, p=2)
        components, offset = projection
        length = components.shape[1]
        features = graph.add("Gemm", features, graph.const(components), graph.const(offset))
    graph.add("LpNormalization", features, axis=1, p=2, out="embedding")
    return graph.model(
        "faceres512", {"image": ["n", SIZE, SIZE, 3]}, {"embedding": ["n", length]}, description
    )


def fit(features: Array, components: int = 512) -> tuple[Array, Array]:
    """Principal components of ``(N, 1024)`` unit features, and the offset that removes the mean.

    Returns:
        ``(1024, components)`` and ``(components,)``: ``features @ first + second``.
    """
    mean = features.mean(axis=0)
    _, found = np.linalg.eigh(np.cov((features - mean).astype(np.float64), rowvar=False))
    first = found[:, ::-1][:, :components].astype(np.float32)
    return first, -mean @ first


def fitted(file: Path) -> tuple[Array, Array]:
    """The projection inside a file that was converted before."""
    graph = onnx.load(file).graph
    value = {t.name: onnx.numpy_helper.to_array(t).astype(np.float32) for t in graph.initializer}
    value |= {n.output[0]: value[n.input[0]] for n in graph.node if n.op_type == "Cast"}
    (gemm,) = (n for n in graph.node if n.op_type == "Gemm")
    return value[gemm.input[1]], value[gemm.input[2]]
