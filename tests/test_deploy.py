"""What is under deploy/ fits to the service: settings, figures, routes; and its own rules."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from mien import config

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install 'mien[deploy-check]'")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus-client: pip install 'mien[serve]'"
)

DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
OVERLAYS = sorted(p.parent for p in DEPLOY.glob("kubernetes/overlays/*/kustomization.yaml"))
SECRET = "postgresql+psycopg://mien:secret@database/mien"


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_deploy

    return check_deploy


def validated(run):
    """Run a check whose program may not be there."""
    try:
        return run()
    except Exception as error:
        if type(error).__name__ == "Missing":
            pytest.skip(f"{error} is not installed: pip install 'mien[deploy-check]'")
        raise


# --- images ------------------------------------------------------------------------------------


def test_dockerfiles_by_hadolint(check):
    assert validated(check.check_dockerfiles) == "2 Dockerfiles"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_image_is_small_and_not_root(check, path):
    stages = check.stages(path.read_text("utf-8"))
    assert len(stages) == 2
    build, last = stages
    assert all(re.fullmatch(r"python:[\w.-]+( AS build)?", stage[0][1]) for stage in stages)
    words = dict(last)
    uid, gid = words["USER"].split(":")
    assert int(uid) >= 10000
    assert int(gid) >= 10000
    assert json.loads(words["ENTRYPOINT"]) == ["tini", "--", "mien"]
    assert json.loads(words["CMD"]) == ["serve"]
    assert isinstance(json.loads(words["HEALTHCHECK"].partition("CMD ")[2]), list)
    # What builds stays behind: the last stage takes the environment, and nothing of pip.
    assert [rest for name, rest in last if name == "COPY"] == ["--from=build /opt/mien /opt/mien"]
    assert not [rest for name, rest in last if name == "RUN" and "pip" in rest]
    assert "ORT_DISABLE_TELEMETRY=1" in words["ENV"]
    assert dict(build)["ENV"] == "ORT_DISABLE_TELEMETRY=1"
    assert "RAY_USAGE_STATS_ENABLED=0" in words["ENV"]
    assert not [rest for name, rest in build + last if name == "ADD"]
    assert "--index" not in path.read_text("utf-8")


def test_images_differ_in_what_a_gpu_needs_alone(check):
    cpu, cuda = (check.stages(path.read_text("utf-8"))[-1] for path in DOCKERFILES)
    assert [name for name, _ in cpu] == [name for name, _ in cuda]
    for (name, ours), (_, theirs) in zip(cpu, cuda, strict=True):
        if name == "ENV":
            more = set(theirs.split()) - set(ours.split())
            assert not set(ours.split()) - set(theirs.split())
            assert {pair.partition("=")[0] for pair in more} == {
                "MIEN_PROVIDER", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES",
            }  # fmt: skip
        elif name != "HEALTHCHECK":  # a GPU takes longer to warm up
            assert ours == theirs


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_what_is_copied_is_there_and_let_through(check, path):
    let = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for name, rest in check.stages(path.read_text("utf-8"))[0]:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in let
    assert let[1] == "*"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_extras_exist(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"EXTRAS=([\w,]+)", path.read_text("utf-8"))
    assert named
    assert {e for extras in named for e in extras.split(",")} <= set(
        project["optional-dependencies"]
    )


def test_pins_keep_versions_and_markers_and_lose_hashes(check, tmp_path):
    lock = tmp_path / "requirements-dev.txt"
    lock.write_text(
        "# made\nnumpy==2.1 ; python_version < '3.12' \\\n    --hash=sha256:00\n"
        "av==18.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
    )
    (command,) = [rest for name, rest in check.stages(DOCKERFILES[0].read_text("utf-8"))[0]
                  if name == "RUN" and "sed" in rest]  # fmt: skip
    check.subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    made = (tmp_path / "pins.txt").read_text().splitlines()
    assert made == ["numpy==2.1 ; python_version < '3.12'", "av==18.0"]


# --- settings ----------------------------------------------------------------------------------


def image_environment(check, name="cpu"):
    told = dict(check.stages((DEPLOY / f"{name}.Dockerfile").read_text("utf-8"))[-1])["ENV"]
    return {k: v for k, _, v in (pair.partition("=") for pair in told.split())}


def loaded(environment):
    from mien.service import settings

    taken = {k: v for k, v in environment.items() if k.startswith("MIEN_")}
    return settings.load(environment=taken, folder="/")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.name)
def test_server_of_an_overlay_reads_its_settings(check, overlay):
    manifests = {check.named(m): m for m in check.render(overlay)}
    image = "cuda" if overlay.name == "cuda" else "cpu"
    given = image_environment(check, image)
    (container,) = manifests["StatefulSet", "mien"]["spec"]["template"]["spec"]["containers"]
    for source in container["envFrom"]:
        given |= manifests["ConfigMap", source["configMapRef"]["name"]]["data"]
    given |= {e["name"]: e.get("value", SECRET) for e in container.get("env", ())}
    found, chain = loaded(given)
    assert not found.local
    assert found.port == container["ports"][0]["containerPort"]
    assert chain.provider == ("cuda" if image == "cuda" else config.Settings().provider)
    mounted = [m["mountPath"] for m in container["volumeMounts"]]
    places = [found.folder, *([found.seal] if found.seal else [])]
    assert all(any(p.is_relative_to(m) for m in mounted) for p in places)
    # The volume's root is Kubernetes'; mien's own folders lie below, and are its owner's alone.
    assert all(str(p) not in mounted for p in places)
    assert given["MIEN_HOME"] not in mounted
    if overlay.name not in ("local",):
        assert found.database_url == SECRET
        assert found.files_url.startswith("s3://")
        assert found.seal.name == "key"
    if overlay.name == "ray":
        assert found.executor == "ray"
        assert found.ray.startswith("ray://mien-ray-head-svc:")


def test_replicas_on_ray_read_their_settings(check):
    manifests = {check.named(m): m for m in check.render(DEPLOY / "kubernetes/overlays/ray")}
    spec = manifests["RayService", "mien-streams"]["spec"]
    cluster = spec["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    given = {}
    for group in (cluster["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        given = image_environment(check)
        for source in container["envFrom"]:
            given |= manifests["ConfigMap", source["configMapRef"]["name"]]["data"]
        given |= {e["name"]: e.get("value", SECRET) for e in container.get("env", ())}
        found, _ = loaded(given)
        assert (found.replicas.least, found.replicas.most) == (2, 40)
    assert found.database_url == SECRET
    assert found.seal.name == "key"
    assert found.replicas.cpus <= int(container["resources"]["limits"]["cpu"])
    pod = workers["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > found.replicas.drain_seconds
    served = yaml.safe_load(spec["serveConfigV2"])
    (application,) = served["applications"]
    module, _, name = application["import_path"].partition(":")
    source = (ROOT / "src" / Path(*module.split("."))).with_suffix(".py").read_text("utf-8")
    assert f"def {name}(" in source
    assert served["http_options"]["port"] == container["ports"][0]["containerPort"]
    night = manifests["RayJob", "mien-night"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == night["rayVersion"]


def test_compose_file_reads_its_settings(check):
    server = compose()["services"]["mien"]
    given = image_environment(check) | server["environment"]
    given = {k: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", v) for k, v in given.items()}
    found, _ = loaded(given)
    assert found.database_url.startswith("postgresql+psycopg://")
    assert found.files_options == {"endpoint_url": "http://store:8333"}
    assert found.workers == 1


def test_unknown_setting_would_be_found():
    from mien.errors import UsageError

    with pytest.raises(UsageError, match="unknown key"):
        loaded({"MIEN_SERVE_DATABSE": "x"})


# --- compose -----------------------------------------------------------------------------------


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def test_compose_by_schema(check):
    assert validated(check.check_compose) == "compose.yaml"


def test_compose_is_closed():
    file = compose()
    for name, service in file["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d|cpu", tag), name
        assert tag != "latest"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists()
                assert volume.endswith(":ro")
            else:
                assert source in file["volumes"]
    assert file["networks"]["back"]["internal"] is True
    assert {n for n, s in file["services"].items() if "front" in s["networks"]} == {
        "mien", "grafana",
    }  # fmt: skip


def test_shared_memory_is_enough_for_all_live_sessions():
    from mien.serve.options import Boxes
    from mien.serve.shared import SLOTS
    from mien.service.live.engine import PLACES

    # As the server reckons: two places for each session, of four fifths of what there is.
    needed = SLOTS * (sum(Boxes(1).sizes) - Boxes(0).sizes[0]) * 2 * PLACES / 0.8
    size = compose()["services"]["mien"]["shm_size"]
    assert int(size.removesuffix("m")) << 20 >= needed
    text = (DEPLOY / "kubernetes/base/server.yaml").read_text("utf-8")
    template = yaml.safe_load(text)["spec"]["template"]["spec"]
    (volume,) = [v["emptyDir"] for v in template["volumes"] if v["name"] == "shared"]
    assert volume["medium"] == "Memory"
    assert int(volume["sizeLimit"].removesuffix("Mi")) << 20 >= needed
    mounts = {m["name"]: m["mountPath"] for m in template["containers"][0]["volumeMounts"]}
    assert mounts["shared"] == "/dev/shm"


def test_compose_secrets_are_asked_for_and_not_given():
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    must = set(re.findall(r"\$\{(\w+):\?", text))
    may = set(re.findall(r"\$\{(\w+):-", text))
    told = (DEPLOY / "compose.env").read_text("utf-8")
    assert set(re.findall(r"^(\w+)=$", told, re.MULTILINE)) == must
    assert set(re.findall(r"^# (\w+)=", told, re.MULTILINE)) == may
    assert not re.search(r"^\w+=.", told, re.MULTILINE)
    assert ".env" in (DEPLOY / ".gitignore").read_text("utf-8").split()


# --- manifests ---------------------------------------------------------------------------------


def test_manifests_by_schema(check):
    assert "4 overlays" in validated(check.check_manifests)


def test_pods_of_ray_clusters_by_schema(check):
    assert validated(check.check_pods_of_rays).startswith("7 pods")


def pods(check, value):
    """Every pod's specification in a manifest."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(check, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(check, inner)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.name)
def test_pods_may_do_little(check, overlay):
    manifests = check.render(overlay)
    found = [pod for manifest in manifests for pod in pods(check, manifest)]
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            volumes = {volume["name"] for volume in pod.get("volumes", ())} | {"data"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert "Secret" not in {manifest["kind"] for manifest in manifests}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.name)
def test_selectors_find_the_servers(check, overlay):
    manifests = {check.named(m): m for m in check.render(overlay)}
    server = manifests["StatefulSet", "mien"]["spec"]
    labels = server["template"]["metadata"]["labels"].items()
    chosen = [
        server["selector"]["matchLabels"],
        manifests["Service", "mien"]["spec"]["selector"],
        manifests["Service", server["serviceName"]]["spec"]["selector"],
        manifests["PodDisruptionBudget", "mien"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy", "mien"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(choice.items() <= labels for choice in chosen)
    assert manifests["NetworkPolicy", "nothing"]["spec"] == {
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
    }  # fmt: skip
    assert {m["metadata"].get("namespace") for m in manifests.values()} - {None} == {"mien"}


def test_probes_ask_routes_that_are_there(check):
    from mien.service.routes import health, metrics

    paths = {route.path for module in (health, metrics) for route in module.router.routes}
    manifests = {check.named(m): m for m in check.render(OVERLAYS[0])}
    template = manifests["StatefulSet", "mien"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    asked = {
        p: container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert {*asked.values(), template["metadata"]["annotations"]["prometheus.io/path"]} <= paths
    # Bodies wait in /tmp until they are in the store.
    from mien.service.settings import LimitsTable

    sizes = {v["name"]: v.get("emptyDir", {}).get("sizeLimit") for v in template["spec"]["volumes"]}
    assert int(sizes["tmp"].removesuffix("Gi")) << 30 >= 2 * LimitsTable().body_bytes


def test_night_job_uses_options_that_are_there(check):
    import typer

    from mien import cli

    manifests = {check.named(m): m for m in check.render(DEPLOY / "kubernetes/overlays/ray")}
    job = manifests["RayJob", "mien-night"]["spec"]
    program, command, *words = job["entrypoint"].split()
    assert (program, command) == ("mien", "swap")
    known = {flag for parameter in typer.main.get_command(cli.app).commands[command].params
             for flag in parameter.opts}  # fmt: skip
    assert {word for word in words if word.startswith("--")} <= known
    assert job["suspend"] is True
    versions = {manifests["RayCluster", "mien-ray"]["spec"]["rayVersion"],
                job["rayClusterSpec"]["rayVersion"]}  # fmt: skip
    assert len(versions) == 1
    lock = (ROOT / "requirements-dev.txt").read_text("utf-8")
    assert versions >= set(re.findall(r"^ray(?:\[\w+\])?==([\d.]+)", lock, re.MULTILINE))


# --- figures -----------------------------------------------------------------------------------


def figures():
    """Series of the service's /metrics → names of their labels."""
    from mien.service.metrics import Metrics

    known = {}
    for collector in list(Metrics().registry._collector_to_names):
        kind, name, labels = collector._type, collector._name, set(collector._labelnames)
        if kind == "counter":
            known[f"{name}_total"] = labels
        elif kind == "histogram":
            known |= {
                f"{name}_bucket": labels | {"le"},
                f"{name}_sum": labels,
                f"{name}_count": labels,
            }
        else:
            known[name] = labels
    return known


def queries(check):
    """Everything that asks Prometheus: where it stands, what it asks, labels that it shows."""
    board = json.loads((DEPLOY / "grafana/dashboards/mien.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]
    for variable in board["templating"]["list"]:
        found = re.match(r"label_values\((.*), (\w+)\)", variable["definition"])
        yield variable["name"], found[1], f"{{{{{found[2]}}}}}"
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text("utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            said = " ".join(re.findall(r"\$labels\.(\w+)", json.dumps(rule)))
            yield rule["alert"], rule["expr"], " ".join(f"{{{{{name}}}}}" for name in said.split())
    for manifest in check.render(DEPLOY / "kubernetes/overlays/production"):
        if manifest["kind"] == "ScaledObject":
            for trigger in manifest["spec"]["triggers"]:
                yield "scaling", trigger["metadata"]["query"], ""


def test_every_figure_that_is_asked_for_exists(check):
    known, seen = figures(), set()
    for where, query, shown in queries(check):
        named = re.findall(r"\b(mien_\w+)(?:\{([^}]*)\})?", query)
        assert named or "up{" in query, where
        for name, chosen in named:
            assert name in known, f"{where}: {name} is not in /metrics"
            labels = set(re.findall(r"(\w+)\s*[=!]~?\"", chosen))
            assert labels <= known[name] | {"instance", "job"}, f"{where}: {labels} of {name}"
            seen.add(name)
        of = set().union(*(known[name] for name, _ in named)) | {"instance"}
        for labels in re.findall(r"\bby \(([^)]*)\)", query):
            of &= set(labels.replace(" ", "").split(","))
            assert set(labels.replace(" ", "").split(",")) == of, f"{where}: by ({labels})"
        assert set(re.findall(r"\{\{(\w+)\}\}", shown)) <= of, f"{where} shows {shown}"
    # And none is left out: by a name without its ending.
    plain = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in seen}
    assert plain == {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known}


def test_alerts_are_on_age_queue_and_errors():
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text("utf-8"))["groups"][0][
        "rules"
    ]
    assert {rule["labels"]["severity"] for rule in rules} == {"page", "warn"}
    asked = " ".join(rule["expr"] for rule in rules)
    for name in ("mien_jobs_oldest_seconds", 'mien_jobs{state="queued"}', "mien_errors_total",
                 "mien_requests_total", "mien_workers_ready"):  # fmt: skip
        assert name in asked
    from mien.service.database import STATES

    assert set(re.findall(r'state="(\w+)"', asked)) <= set(STATES)


def test_panels_lie_beside_each_other():
    board = json.loads((DEPLOY / "grafana/dashboards/mien.json").read_text("utf-8"))
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "prometheus"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# --- the renderer, and what must not be written ------------------------------------------------


def test_strategic_merge(check):
    old = {"a": 1, "b": {"c": 2}, "env": [{"name": "x", "value": "1"}, {"name": "y", "value": "2"}],
           "args": ["serve"]}  # fmt: skip
    new = {"b": {"c": None, "d": 3}, "args": ["doctor"],
           "env": [{"name": "y", "value": "9"}, {"name": "z", "value": "4"},
                   {"name": "x", "$patch": "delete"}]}  # fmt: skip
    assert check.merged(old, new) == {
        "a": 1, "b": {"d": 3}, "args": ["doctor"],
        "env": [{"name": "z", "value": "4"}, {"name": "y", "value": "9"}],
    }  # fmt: skip
    assert old["b"] == {"c": 2}


def test_renderer_refuses_what_it_does_not_know(check, tmp_path):
    (tmp_path / "kustomization.yaml").write_text("namePrefix: x-\nresources: []\n")
    with pytest.raises(ValueError, match="namePrefix"):
        check.render(tmp_path)


def test_wrong_manifest_is_found(check, tmp_path, monkeypatch):
    pytest.importorskip("kubernetes_validate", reason="needs: pip install 'mien[deploy-check]'")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: 80}\n"
    )
    monkeypatch.setattr(check, "OVERLAYS", [tmp_path])
    with pytest.raises(ValueError, match="port"):
        check.check_manifests()


def test_nothing_here_names_a_host_of_others():
    ours = re.compile(
        r"(127\.0\.0\.1|prometheus(\.monitoring)?|store|mien|database|mien-ray-head-svc"
        r"|[\w.]*\bexample\.com|HOST|USER|\$)"
    )
    for path in [p for p in DEPLOY.rglob("*") if p.is_file()]:
        for host in re.findall(r"\w://([^\s/:\"'?]+)", path.read_text("utf-8")):
            assert ours.match(host.rpartition("@")[2]), f"{path.name} names {host}"
