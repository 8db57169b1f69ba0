"""Check what is under deploy/ as far as that goes without a container engine or a cluster.

    pip install 'mien[deploy-check]'
    python scripts/check_deploy.py                  # files: seconds
    python scripts/check_deploy.py --setup cpu      # and the image's set-up, in a folder: minutes

Files: hadolint on the Dockerfiles; the kustomize overlays rendered and every manifest against
Kubernetes' schemas (strict: an unknown key is an error); compose.yaml against the Compose
Specification's schema; Prometheus' rules with their own tests, where there is a promtool; the
rendering against kubectl's, where there is a kubectl (1.27 or newer). What is not installed is
named, and then the exit status is 1 only with --all.

Set-up: the RUN commands of the first stage of a Dockerfile run in an empty folder with a clean
environment, on copies of what the Dockerfile copies; then the server runs with the image's
environment and entry point until it is ready, its health check is asked, and it is sent SIGTERM.
Who is root lets it run as the image's user, who may write nowhere but where the image says. Paths
are replaced; nothing outside the folder is written but by pip. A GPU is not asked for.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = {path.name.split(".")[0]: path for path in sorted(DEPLOY.glob("*.Dockerfile"))}
OVERLAYS = sorted(path.parent for path in DEPLOY.glob("kubernetes/overlays/*/kustomization.yaml"))
KUBERNETES = "1.33"
"""Version of the schemas; the newest that all of the large providers have had for a while."""

CUSTOM = {"KubeRay": "ray.io", "KEDA": "keda.sh"}
"""Kinds of others' operators, which are not among Kubernetes' schemas."""

Manifest = dict[str, Any]


# --- Dockerfiles -------------------------------------------------------------------------------


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile: name and what follows, continued lines joined."""
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name.upper(), rest.strip()) for name, _, rest in
            (line.partition(" ") for line in joined.splitlines())]  # fmt: skip


def stages(text: str) -> list[list[tuple[str, str]]]:
    """Instructions by stage, each beginning with its FROM."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions(text):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def setup(dockerfile: Path, folder: Path, python: str, extras: str | None) -> Path:
    """Run the first stage's commands in a folder; returns the environment they made."""
    build, opt = folder / "build", folder / "opt"
    build.mkdir(parents=True)
    opt.mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(shutil.which(python) or python)
    variables = {
        "HOME": str(folder),
        "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "MIEN_HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "TMPDIR": tempfile.gettempdir(),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    # How this machine reaches a registry; an image's builder has its own.
    variables |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "REQUESTS_"))
                  or k.lower().endswith("_proxy")}  # fmt: skip
    for file in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf",
                 Path.home() / ".pip/pip.conf"):  # fmt: skip
        if file.is_file():
            variables.setdefault("PIP_CONFIG_FILE", str(file))
    for name, rest in stages(dockerfile.read_text("utf-8"))[0]:
        if name == "ARG":
            key, _, value = rest.partition("=")
            variables[key] = extras if key == "EXTRAS" and extras else value
        elif name == "ENV":
            variables |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copied(ROOT / source, build / target, source)
        elif name == "RUN":
            command = re.sub(r"--mount=\S+\s+", "", rest).replace("/opt/mien", str(opt / "mien"))
            print(f"RUN {command}", flush=True)
            begun = time.monotonic()
            subprocess.run(["sh", "-ec", command], cwd=build, env=variables, check=True)
            print(f"    {time.monotonic() - begun:.0f} s", flush=True)
    mien = opt / "mien"
    size = sum(p.stat().st_size for p in mien.rglob("*") if p.is_file() and not p.is_symlink())
    print(f"{mien}: {size / 1e6:.0f} MB", flush=True)
    return mien


def serve(dockerfile: Path, folder: Path) -> None:
    """Run what was set up as the image would.

    Raises:
        ValueError: It does not do what the image promises.
    """
    last = stages(dockerfile.read_text("utf-8"))[-1]
    told = dict(last)
    writable = {"/var/lib/mien": folder / "lib", "/var/cache/mien": folder / "cache",
                "/tmp": folder / "tmp"}  # fmt: skip
    for path in writable.values():
        path.mkdir(mode=0o700, exist_ok=True)

    places = {"/opt/mien": folder / "opt/mien", **writable}

    def here(text: str) -> str:
        names = "|".join(places)
        return re.sub(rf"(?<![\w/])({names})\b", lambda found: str(places[found[0]]), text)

    variables = {"TMPDIR": str(folder / "tmp")}
    for name, rest in last:
        if name == "ENV":
            for pair in shlex.split(here(rest)):
                key, _, value = pair.partition("=")
                variables[key] = value.replace("$PATH", "/usr/bin:/bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables |= {"MIEN_SERVE_HOST": "127.0.0.1", "MIEN_SERVE_PORT": port}
    if variables.get("MIEN_PROVIDER", "cpu") != "cpu" and not shutil.which("nvidia-smi"):
        print("no GPU here: the server runs on the CPU")
        variables["MIEN_PROVIDER"] = "cpu"
    user: list[str] = []
    if os.geteuid() == 0:
        ids = told["USER"].split(":")
        user = ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups",
                "--no-new-privs"]  # fmt: skip
        folder.chmod(0o755)
        for path in writable.values():
            for inner in (path, *path.rglob("*")):
                os.chown(inner, int(ids[0]), int(ids[1]))
    entry = [word for word in json.loads(told["ENTRYPOINT"]) if word not in ("tini", "--")]
    command = [*user, *entry, *json.loads(told["CMD"])]
    print("RUN", *command, flush=True)
    begun = time.monotonic()
    server = subprocess.Popen(command, env=variables, cwd=folder / "lib")
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError as error:
                if server.poll() is not None or time.monotonic() - begun > 120:
                    raise ValueError(f"the server did not get ready ({error})") from error
                time.sleep(0.2)
        print(f"    ready after {time.monotonic() - begun:.1f} s", flush=True)
        asked = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
        if subprocess.run([*user, *asked], env=variables, check=False).returncode:
            raise ValueError("the health check fails on a server that is ready")
        server.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        if status := server.wait(60):
            raise ValueError(f"SIGTERM ends the server with status {status}")
        print(f"    ended {time.monotonic() - begun:.1f} s after SIGTERM", flush=True)
        if list((folder / "cache").rglob("deviceid")):
            raise ValueError(
                "ONNX Runtime keeps an id of the machine: ORT_DISABLE_TELEMETRY is off"
            )
        if not subprocess.run([*user, *asked], env=variables, check=False,
                              stderr=subprocess.DEVNULL).returncode:  # fmt: skip
            raise ValueError("the health check passes where no server is")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _copied(source: Path, target: Path, name: str) -> None:
    if source.is_dir():
        shutil.copytree(source, target.parent / name, dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


# --- kustomize ---------------------------------------------------------------------------------


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl kustomize`` prints, for the fields that the overlays here use.

    Raises:
        ValueError: A field is used that this does not know.
    """
    file = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    known = {
        "apiVersion",
        "kind",
        "namespace",
        "resources",
        "labels",
        "patches",
        "images",
        "replicas",
    }
    if unknown := set(file) - known:
        raise ValueError(f"{folder}: the renderer does not know {', '.join(sorted(unknown))}")
    found: list[Manifest] = []
    for name in file.get("resources", ()):
        path = (folder / name).resolve()
        # By JSON, so that what an anchor names is not one object in two places.
        found += render(path) if path.is_dir() else [
            json.loads(json.dumps(m)) for m in yaml.safe_load_all(path.read_text("utf-8")) if m
        ]  # fmt: skip
    for patch in file.get("patches", ()):
        for change in yaml.safe_load_all((folder / patch["path"]).read_text("utf-8")):
            (at,) = [i for i, m in enumerate(found) if named(m) == named(change)]
            if change.get("$patch") == "delete":
                del found[at]
            else:
                found[at] = merged(found[at], change)
    for manifest in found:
        if "namespace" in file and manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = file["namespace"]
        for labels in file.get("labels", ()):
            manifest["metadata"].setdefault("labels", {}).update(labels["pairs"])
        for image in file.get("images", ()):
            for container in containers(manifest):
                if re.split(r"[:@]", container["image"])[0] == image["name"]:
                    name = image.get("newName", image["name"])
                    container["image"] = f"{name}:{image['newTag']}"
        for many in file.get("replicas", ()):
            if manifest["kind"] in ("Deployment", "StatefulSet") and (
                manifest["metadata"]["name"] == many["name"]
            ):
                manifest["spec"]["replicas"] = many["count"]
    return found


def named(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def containers(value: Any) -> Iterator[Manifest]:
    """Every mapping that names an image in a list of containers, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("containers", "initContainers"):
                yield from inner
            else:
                yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


KEYS = {
    "containers": "name", "initContainers": "name", "env": "name", "volumes": "name",
    "volumeMounts": "mountPath", "ports": "containerPort",
}  # fmt: skip
"""Lists that a strategic merge joins, and by which key."""


def merged(old: Any, new: Any, key: str = "") -> Any:
    """A strategic merge: mappings by key, null removes, lists of :data:`KEYS` by their names."""
    if isinstance(old, dict) and isinstance(new, dict):
        result = copy.deepcopy(old)
        for name, value in new.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(result.get(name), value, name)
        return result
    by = KEYS.get(key)
    if isinstance(old, list) and isinstance(new, list) and by and all(by in e for e in old + new):
        changes = {entry[by]: entry for entry in new}
        gone = {name for name, entry in changes.items() if entry.get("$patch") == "delete"}
        kept = [
            merged(e, changes.pop(e[by])) if e[by] in changes else e for e in copy.deepcopy(old)
        ]
        # kustomize puts what is new first.
        fresh = [e for e in new if e[by] in changes and e[by] not in gone]
        return fresh + [e for e in kept if e[by] not in gone]
    if isinstance(new, dict):
        return {name: merged(None, value, name) for name, value in new.items() if value is not None}
    return copy.deepcopy(new)


# --- checks ------------------------------------------------------------------------------------


class Missing(Exception):
    """A program or package is not installed."""


def program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise Missing(name)
    return found


def _ran(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError((done.stdout + done.stderr).strip())
    return done.stdout


def check_dockerfiles() -> str:
    _ran(program("hadolint"), "--failure-threshold", "info", *DOCKERFILES.values())
    return f"{len(DOCKERFILES)} Dockerfiles"


def check_manifests() -> str:
    try:
        import kubernetes_validate
    except ImportError as error:
        raise Missing("kubernetes-validate") from error
    good, custom = 0, set()
    for overlay in OVERLAYS:
        for manifest in render(overlay):
            group = manifest["apiVersion"].rpartition("/")[0]
            if group in CUSTOM.values():
                custom.add(manifest["kind"])
                continue
            try:
                kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(p) for p in error.path)
                raise ValueError(
                    f"{overlay.name} {named(manifest)} {where}: {error.message}"
                ) from error
            good += 1
    return (
        f"{good} manifests of {len(OVERLAYS)} overlays; no schemas for {', '.join(sorted(custom))}"
    )


def check_pods_of_rays() -> str:
    """KubeRay's own fields have no schema here; the pods in them do."""
    try:
        import kubernetes_validate
    except ImportError as error:
        raise Missing("kubernetes-validate") from error
    good = 0
    for overlay in OVERLAYS:
        for manifest in render(overlay):
            if manifest["apiVersion"].startswith("ray.io/"):
                for template in templates(manifest["spec"]):
                    pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
                           "metadata": {"name": "pod"} | template.get("metadata", {})}  # fmt: skip
                    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
                    good += 1
    return f"{good} pods of Ray clusters"


def templates(value: Any) -> Iterator[Manifest]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("template", "submitterPodTemplate"):
                yield inner
            else:
                yield from templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from templates(inner)


def check_compose() -> str:
    _ran(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec",
         DEPLOY / "compose.yaml")  # fmt: skip
    return "compose.yaml"


def check_rules() -> str:
    tool = program("promtool")
    _ran(tool, "check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml")
    _ran(tool, "check", "rules", DEPLOY / "prometheus/rules.yml")
    _ran(tool, "test", "rules", DEPLOY / "prometheus/rules_test.yml")
    return "Prometheus' settings, rules and their tests"


def check_rendering() -> str:
    """The renderer above against the real one."""
    tool = program("kubectl")
    for overlay in OVERLAYS:
        theirs = [m for m in yaml.safe_load_all(_ran(tool, "kustomize", overlay)) if m]
        ours = render(overlay)
        for one in ours:
            (other,) = [m for m in theirs if named(m) == named(one)]
            if one != other:
                ours_, theirs_ = (yaml.safe_dump(m).splitlines() for m in (one, other))
                changes = difflib.unified_diff(theirs_, ours_, "kubectl", "here", n=1, lineterm="")
                raise ValueError("\n".join((f"{overlay.name} {named(one)}", *changes)))
        if len(theirs) != len(ours):
            raise ValueError(f"{overlay.name}: {len(ours)} manifests, kubectl has {len(theirs)}")
    return f"{len(OVERLAYS)} overlays are what kubectl kustomize renders"


CHECKS: dict[str, Callable[[], str]] = {
    "hadolint": check_dockerfiles,
    "kubernetes-validate": check_manifests,
    "pods": check_pods_of_rays,
    "compose": check_compose,
    "promtool": check_rules,
    "kubectl": check_rendering,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="what is not installed is an error")
    parser.add_argument("--setup", choices=DOCKERFILES, help="run its set-up, too")
    parser.add_argument("--folder", type=Path, help="for --setup: an empty one, which is kept")
    parser.add_argument("--extras", help="for --setup: instead of the Dockerfile's")
    parser.add_argument("--python", default="python3.11", help="for --setup: as in the image")
    options = parser.parse_args()
    wrong = 0
    for name, check in CHECKS.items():
        try:
            print(f"{name:20} ok: {check()}")
        except Missing as error:
            print(f"{name:20} not run: {error} is not installed")
            wrong += options.all
        except ValueError as error:
            print(f"{name:20} WRONG: {error}")
            wrong += 1
    if options.setup:
        folder = options.folder or Path(tempfile.mkdtemp(prefix="mien-setup-"))
        try:
            file, folder = DOCKERFILES[options.setup], folder.absolute()
            setup(file, folder, options.python, options.extras)
            serve(file, folder)
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"set-up of {options.setup} WRONG: {error}")
            wrong += 1
        finally:
            if options.folder is None:
                shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
