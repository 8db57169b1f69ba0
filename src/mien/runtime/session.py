"""A model becomes a session on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from mien.errors import ModelError, ModelNotFound, ProviderError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""Short name → ONNX Runtime's name; to add a provider, add a line."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where networks run.

    Attributes:
        providers: Short names of execution providers, best first, joined by commas.
        threads: Of each network's own pool; they never spin, because the machine is shared with
            decoding and encoding.
    """

    providers: str = "cpu"
    threads: int = 1


CPU: Final = Device()


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded network; call it with arrays in the order of ``inputs``.

    Attributes:
        name: For reports and messages.
        provider: Short name of the provider that holds the graph.
        inputs: Name → shape as the graph declares it (a string is a free dimension).
        outputs: Names in the graph's order.
        session: ONNX Runtime's.
    """

    name: str
    provider: str
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    session: Any

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run the network on arrays given in the order of ``inputs``; returns all outputs."""
        result: list[Any] = self.session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        return result


def load(path: Path | str, device: Device = CPU, *, name: str = "") -> Model:
    """Load an ONNX file onto one provider, and fail if it is not there.

    Args:
        path: The ``.onnx`` file.
        device: Where it is to run.
        name: For reports; the file's stem if not given.

    Raises:
        ModelNotFound: No such file.
        ModelError: The file is not a graph that ONNX Runtime accepts.
        ProviderError: The provider is unknown, or this installation does not have it.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFound(f"{path}: no such model file")
    provider = device.providers
    wanted = _available(provider)
    options = ort.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: Sequence[str] = [wanted] if provider == "cpu" else [wanted, PROVIDERS["cpu"]]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise ModelError(f"{path}: not a model that ONNX Runtime can load ({error})") from error
    if session.get_providers()[0] != wanted:
        raise ProviderError(
            f"{path.name}: {provider} was asked for, but ONNX Runtime put the model on "
            f"{session.get_providers()[0]}; check the driver and libraries of {provider}"
        )
    return Model(
        name=name or path.stem,
        provider=provider,
        inputs={i.name: tuple(i.shape) for i in session.get_inputs()},
        outputs=tuple(o.name for o in session.get_outputs()),
        session=session,
    )


def _available(provider: str) -> str:
    if provider not in PROVIDERS:
        raise ProviderError(f"provider {provider!r} is unknown; known are {', '.join(PROVIDERS)}")
    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        have = [k for k, v in PROVIDERS.items() if v in ort.get_available_providers()]
        raise ProviderError(
            f"provider {provider!r} is not in this installation of ONNX Runtime, which has "
            f"{', '.join(have)}; install the build of onnxruntime that carries it"
        )
    return wanted
