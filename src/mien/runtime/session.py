"""A model becomes a session on a device, and it is checked that it runs there."""

from __future__ import annotations

import io
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from mien.errors import ModelError, ModelNotFound, ProviderError
from mien.runtime import cache, guard, onnxfile, placement
from mien.runtime.device import CPU, PROVIDERS, Device, cores, threads_for
from mien.runtime.model import Model, Shape

log = logging.getLogger(__name__)

WORTH: Final = 512 * 1024
"""Files from this size on, in bytes, have their optimised graph kept."""

FORMAT: Final = 2
"""Of what is kept; another number makes all entries stale."""

CALIBRATION: Final = ".calibration.flatbuffers"
"""What follows a model's stem in the name of its calibration table."""

BATCH: Final = (1, 1, 8)
"""Least, usual and largest size that TensorRT prepares a free first dimension for."""

IMAGES: Final = (256, 64, 640, 1)
"""Sides that are tried where a model leaves them free; most networks want a multiple of 32."""

Chosen = list[tuple[str, dict[str, str]]]
"""ONNX Runtime's names and options of providers."""


def load(
    path: Path | str,
    device: Device = CPU,
    *,
    name: str = "",
    shapes: Mapping[str, tuple[Shape, Shape, Shape]] | None = None,
) -> Model:
    """Load an ONNX file onto a device, and fail if it does not run there.

    The file is inspected before ONNX Runtime reads it. On other devices than the processor, one
    run is profiled, and the model is warm afterwards.

    Args:
        path: The ``.onnx`` file.
        device: Where it is to run.
        name: For reports; the file's stem if not given.
        shapes: Input → least, usual and largest shape, where TensorRT is to be prepared for more
            than a batch of 1 to 8.

    Raises:
        ModelNotFound: No such file.
        ModelError: The file is not a graph that ONNX Runtime accepts, or one that is refused.
        ProviderError: A provider is unknown, this installation does not have it, or nodes of the
            graph ran elsewhere.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFound(f"{path}: no such model file")
    asked = _available(device)
    file = onnxfile.read(path)
    guard.inspect(file)
    root = cache.folder(device.cache)
    chosen = _chosen(asked, device, file, shapes, root)
    only_cpu = [n for n, _ in asked] == ["cpu"]
    keep = _Keep(root, cache.key_of(path, FORMAT, ort.__version__, cache.processor(), chosen))
    if only_cpu:
        session = _on_cpu(path, file.size, device, keep)
    else:
        session = _elsewhere(path, asked, chosen, device, keep=keep)
    model = Model(
        name=name or path.stem,
        provider=next(n for n, p in PROVIDERS.items() if p.ort == session.get_providers()[0]),
        inputs={i.name: tuple(i.shape) for i in session.get_inputs()},
        outputs=tuple(o.name for o in session.get_outputs()),
        session=session,
        turn=threading.Lock() if any(PROVIDERS[n].serial for n, _ in asked) else nullcontext(),
    )
    if not only_cpu:
        _prove(path, model, asked, device, keep=keep)
    return model


@dataclass(frozen=True, slots=True)
class _Keep:
    """Where something is kept between starts, and under which key."""

    root: Path | None
    key: str


def _options(device: Device) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = device.threads or threads_for(cores(), device.sessions)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(path: Path, options: Any, providers: Sequence[Any]) -> Any:
    """A session; without ONNX Runtime's own ways of going on elsewhere after an error."""
    return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def _on_cpu(path: Path, size: int, device: Device, keep: _Keep) -> Any:
    """A session on the processor, from the optimised graph kept by an earlier one if there is one.

    The kept graph has its weights beside it as ONNX Runtime lays them out, so that they are
    mapped into memory instead of being read, copied and rearranged.
    """
    usual = [PROVIDERS["cpu"].ort]
    kept = cache.find(keep.root, "graphs", keep.key) if size >= WORTH else None
    if kept is not None:
        options = _options(device)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _session(kept / "graph.onnx", options, usual)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            log.info("%s: made anew (%s)", kept, error)
            cache.drop(kept)
    made: list[Any] = []

    def make(folder: Path) -> None:
        options = _options(device)
        options.optimized_model_filepath = str(folder / "graph.onnx")
        entry = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(entry + "file_name", "weights.bin")
        options.add_session_config_entry(entry + "min_size_in_bytes", "1024")
        try:
            made.append(_session(path, options, usual))
        except Exception as error:
            raise OSError(0, str(error)) from error

    if keep.root and size >= WORTH and cache.free(keep.root) > 2 * size + (64 << 20):
        cache.keep(keep.root, "graphs", keep.key, path, make)
    return made[0] if made else _loaded(path, _options(device), usual)


def _loaded(path: Path, options: Any, providers: Sequence[Any]) -> Any:
    try:
        return _session(path, options, providers)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise ModelError(f"{path}: not a model that ONNX Runtime can load ({error})") from error


def _elsewhere(
    path: Path, asked: list[tuple[str, str]], chosen: Chosen, device: Device, *, keep: _Keep
) -> Any:
    """A session on other providers than the processor, its first run to be profiled."""
    options = _options(device)
    if any(PROVIDERS[name].serial for name, _ in asked):
        options.enable_mem_pattern = False
    scratch = None
    if cache.find(keep.root, "proofs", keep.key) is None:
        scratch = tempfile.mkdtemp(prefix="mien-profile-")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "run")
    providers = chosen if asked[-1][0] == "cpu" else [*chosen, (PROVIDERS["cpu"].ort, {})]
    if any(name in ("cuda", "tensorrt") for name, _ in asked):
        preload()
    try:
        session = _session(path, options, providers)
    except Exception as error:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        # Does the file load at all? Then it is the provider.
        _loaded(path, _options(device), [PROVIDERS["cpu"].ort])
        names = ", ".join(name for name, _ in asked)
        return _or_warn(
            device,
            f"{path.name}: {names} could not be started ({_first(error)}); {_fix(asked[0][0])}",
            lambda: _loaded(path, _options(device), [PROVIDERS["cpu"].ort]),
        )
    have = session.get_providers()
    for name, _ in asked:
        if PROVIDERS[name].ort not in have:
            _or_warn(
                device,
                f"{path.name}: {name} was asked for, but ONNX Runtime put the model on "
                f"{', '.join(have)}; {_fix(name)}",
            )
    _verify(path, session, asked, dict(chosen), device)
    return session


def _or_warn(device: Device, message: str, instead: Any = None) -> Any:
    """What was asked for is not what happens: an error, or a warning if the user allows it.

    Raises:
        ProviderError: It is not allowed.
    """
    if not device.allow_fallback:
        raise ProviderError(f"{message} (--allow-fallback goes on without it)")
    log.warning("%s", message)
    return instead() if instead is not None else None


def _fix(name: str) -> str:
    return f"what mends it: {PROVIDERS[name].fix}; 'mien doctor' says what is missing"


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


def _available(device: Device) -> list[tuple[str, str]]:
    """The providers asked for that this installation has.

    Raises:
        ProviderError: One is unknown, or not there and that is not allowed.
    """
    built = ort.get_available_providers()
    found = []
    for name, which in device.asked():
        if PROVIDERS[name].ort in built:
            found.append((name, which))
            continue
        have = ", ".join(k for k, v in PROVIDERS.items() if v.ort in built)
        _or_warn(
            device,
            f"provider {name!r} is not in this installation of ONNX Runtime, which has {have}; "
            f"install the build of onnxruntime that carries it: {PROVIDERS[name].fix}",
        )
    return found or [("cpu", "")]


def _chosen(
    asked: list[tuple[str, str]],
    device: Device,
    file: onnxfile.OnnxFile,
    shapes: Mapping[str, tuple[Shape, Shape, Shape]] | None,
    root: Path | None,
) -> Chosen:
    """Names and options as ONNX Runtime takes them.

    Raises:
        ModelError: int8 was asked for, and there is no calibration table.
        ProviderError: A provider cannot compute in the precision asked for.
    """
    out: Chosen = []
    for name, which in asked:
        provider = PROVIDERS[name]
        options = dict(provider.options)
        if which:
            options[provider.device] = which
        told = device.precision not in ("auto", "fp32") and name not in ("cpu", "cuda")
        if told and device.precision not in provider.precision:
            raise ProviderError(
                f"provider {name!r} cannot be told to compute in {device.precision}; "
                f"it can in {', '.join(provider.precision) or 'what the file says alone'}"
            )
        options |= provider.precision.get(device.precision, {})
        if provider.cached and root is not None:
            place = root / name / cache.key_of(file.path, ort.__version__, options, _versions(name))
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            options |= {k: v.format(place) for k, v in provider.cached.items()}
            if device.precision == "int8":
                options |= _calibrated(name, file, place)
        elif device.precision == "int8" and name == "tensorrt":
            raise ProviderError("int8 on tensorrt needs a cache folder; the setting says 'off'")
        if provider.sizes:
            options |= _profiles(file, shapes)
        out.append((provider.ort, options))
    return out


def _versions(name: str) -> str:
    """Of what besides ONNX Runtime decides over an engine."""
    found = []
    for package in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13") if name == "tensorrt" else ():
        with suppress(metadata.PackageNotFoundError):
            found.append(metadata.version(package))
    return " ".join(found)


def _calibrated(name: str, file: onnxfile.OnnxFile, place: Path) -> dict[str, str]:
    """Options for the calibration table beside the model, copied to where the provider looks.

    A graph with its own scales (QDQ) needs none, and TensorRT takes none for it.

    Raises:
        ModelError: There is none.
    """
    if any(node.op == "QuantizeLinear" for graph in file.graphs() for node in graph.nodes):
        return {}
    table = file.path.with_name(file.path.stem + CALIBRATION)
    if not table.is_file():
        raise ModelError(
            f"{table}: no calibration table, which int8 needs; 'mien models quantize "
            f"{file.path.stem} --to int8 --calibrate FOLDER' makes it"
        )
    shutil.copyfile(table, place / table.name)
    key = {"tensorrt": "trt_int8_calibration_table_name"}.get(
        name, "migraphx_int8_calibration_table_name"
    )
    return {key: table.name}


def _profiles(
    file: onnxfile.OnnxFile, shapes: Mapping[str, tuple[Shape, Shape, Shape]] | None
) -> dict[str, str]:
    """TensorRT's named shapes: those given, or a free batch where all other sizes are fixed."""
    graph = file.graph
    if graph is None:
        return {}
    given = dict(shapes or {})
    weights = {t.name for t in graph.initialisers}
    for name, dims in graph.inputs.items():
        fixed = len(dims) > 0 and all(d > 0 for d in dims[1:])
        if name not in given and name not in weights and fixed and dims[0] < 1:
            least, usual, most = ((n, *dims[1:]) for n in BATCH)
            given[name] = (least, usual, most)
    free = {n for n, d in graph.inputs.items() if n not in weights and any(s < 1 for s in d)}
    if not given or not free <= set(given):  # all of them or none, TensorRT says
        return {}
    return {
        f"trt_profile_{what}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, three[place]))}" for name, three in given.items()
        )
        for place, what in enumerate(("min", "opt", "max"))
    }


def preload() -> None:
    """Let ONNX Runtime find the CUDA libraries that pip installed, before a session needs them."""
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()), suppress(Exception):  # it prints what it misses
            ort.preload_dlls()


def _verify(
    path: Path,
    session: Any,
    asked: list[tuple[str, str]],
    chosen: dict[str, dict[str, str]],
    device: Device,
) -> None:
    """The options that decide what is computed must be in effect."""
    applied = session.get_provider_options()
    for name, _ in asked:
        provider = PROVIDERS[name]
        have, want = applied.get(provider.ort, {}), chosen.get(provider.ort, {})
        for key in provider.verify:
            if key in have and key in want and _plain(have[key]) != _plain(want[key]):
                _or_warn(
                    device,
                    f"{path.name}: {name} was given {key}={want[key]}, but runs with "
                    f"{key}={have[key]}; {_fix(name)}",
                )


def _plain(value: str) -> str:
    return {"true": "1", "false": "0"}.get(value.lower(), value)


def _prove(
    path: Path, model: Model, asked: list[tuple[str, str]], device: Device, *, keep: _Keep
) -> None:
    """Warm the model up, and see by the profile of that run whether nodes ran on the processor.

    Done once for a file, a provider and a version of ONNX Runtime; that it was well is kept.
    """
    session = model.session
    profiled = bool(session.get_session_options().enable_profiling)
    tried = model.provider != "cpu"  # else it fell back as a whole, which was said and allowed
    if tried:
        tried = _warmed(path, model)
    if not profiled:
        return
    with _profile_of(session) as profile:
        fallen = placement.on_processor(profile) if tried else {}
    if fallen and asked[-1][0] != "cpu":
        worst = sorted(fallen, key=lambda op: -fallen[op])
        listed = ", ".join(f"{fallen[op]} {op}" for op in worst[:5])
        names = ",".join(name for name, _ in asked)
        add = f"--provider {names},cuda gives them to CUDA, " if names == "tensorrt" else ""
        _or_warn(
            device,
            f"{path.name}: {sum(fallen.values())} nodes ran on the processor, not on {names} "
            f"({listed}); {add}--provider {names},cpu allows it",
        )
    elif tried:
        cache.keep(keep.root, "proofs", keep.key, path, lambda folder: None)


def _warmed(path: Path, model: Model) -> bool:
    """Run once; where sizes besides the batch are free, on an image of a size that will do."""
    free = any(isinstance(d, str) for dims in model.inputs.values() for d in dims[1:])
    for side in IMAGES if free else (1,):
        shapes = {
            name: tuple(d if isinstance(d, int) and d > 0 else side if n else 1
                        for n, d in enumerate(dims))
            for name, dims in model.inputs.items()
        }  # fmt: skip
        try:
            model.warm(shapes)
        except Exception as error:
            log.info("%s: not run with sides of %d (%s)", path, side, _first(error))
        else:
            return True
    return False


@contextmanager
def _profile_of(session: Any) -> Iterator[Path]:
    """The file of a session's profile, removed afterwards with the folder made for it."""
    profile = Path(session.end_profiling())
    try:
        yield profile
    finally:
        shutil.rmtree(profile.parent, ignore_errors=True)
