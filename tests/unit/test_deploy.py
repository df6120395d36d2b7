"""What is shipped to start, watch and place a node says what the code says, and its own tools accept it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.app.checks import check
from dicom_node.app.stretch import Role
from dicom_node.settings import load_settings
from tests.builders.worklist import Site
from tests.page import served

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def run(*command: str, cwd: Path = DEPLOY) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def metric_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every name that a scrape may hold."""
    folder = tmp_path_factory.mktemp("metrics")
    with served(folder / "data") as page, page.client(None) as client:
        Site(page.engine, folder).one_of_each()
        text = client.get("/metrics").text
    names = {s.name for f in text_string_to_metric_families(text) for s in f.samples}
    return names | {"dicom_node_log_events_total", "up"}


def expressions() -> Iterator[str]:
    for group in documents(PROMETHEUS / "alerts.yml")[0]["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    for panel in json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(metric_names: set[str]) -> None:
    asked = {name for text in expressions() for name in re.findall(r"dicom_node_\w+", text)}
    assert len(asked) > 10
    assert asked <= metric_names, sorted(asked - metric_names)


def test_log_events_that_alerts_watch_for_are_logged() -> None:
    source = "".join(path.read_text() for path in (ROOT / "dicom_node").rglob("*.py"))
    for text in expressions():
        for event in re.findall(r'event="([^"]+)"', text):
            assert f'"{event}"' in source, event


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_rules_and_their_tests() -> None:
    run("promtool", "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    run("promtool", "test", "rules", "alerts_test.yml", cwd=PROMETHEUS)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "dicom-node.service").read_text()
    here = tmp_path / "dicom-node.service"
    # where it will be installed there is nothing here; everything else is checked as it is
    here.write_text(re.sub(r"/opt/dicom-node/\.venv/bin/dicom-node", "/bin/true", unit))
    said = run("systemd-analyze", "verify", str(here))
    assert "dicom-node" not in said, said
    judged = run("systemd-analyze", "security", "--offline=true", str(here))
    level = re.search(r"exposure level for \S+: ([\d.]+)", judged)
    assert level
    assert float(level[1]) <= 2.0, judged


def test_compose_is_what_its_specification_calls_valid() -> None:
    """The schema of compose-spec/compose-go, which `docker compose config` uses too."""
    schema = json.loads((ROOT / "tests" / "vendor" / "compose-spec-e70e961.json").read_text())
    (compose,) = documents(DEPLOY / "compose.yaml")
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"node": {"immage": "x"}}}, schema)


def test_kubernetes_knows_every_field() -> None:
    for one in documents(DEPLOY / "kubernetes" / "node.yaml"):
        kubernetes_validate.validate(one, "1.37", strict=True)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run(str(Path(sys.executable).parent / "hadolint"), "Dockerfile")


def test_compose_mounts_files_that_there_are() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), (name, source)
            else:
                assert source in compose["volumes"], (name, source)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is published beyond loopback"
        image = service.get("image", "")
        assert re.search(r":v?\d", image), f"{name}: {image} names no version"


def test_every_configuration_that_is_shipped_can_be_used(tmp_path: Path) -> None:
    files = [DEPLOY / "example.toml", *(DEPLOY / "compose").glob("*.toml"), *DEPLOY.glob("sites/*")]
    (config,) = [
        one for one in documents(DEPLOY / "kubernetes" / "node.yaml") if one["kind"] == "ConfigMap"
    ]
    kubernetes = tmp_path / "node.toml"
    kubernetes.write_text(config["data"]["node.toml"])
    assert len(files) >= 5
    for file in (*files, kubernetes):
        settings = load_settings(file)
        assert set(check(settings)) >= {name for route in settings.route for name in route.models}


def test_the_ray_cluster_is_made_of_pods_that_kubernetes_knows() -> None:
    cluster, policy = documents(DEPLOY / "kubernetes" / "ray.yaml")
    kubernetes_validate.validate(policy, "1.37", strict=True)
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
        kubernetes_validate.validate(pod | {"spec": group["template"]["spec"]}, "1.37", strict=True)
    # no actor runs on the head, which has no GPU
    assert groups[0]["rayStartParams"]["num-cpus"] == "0"
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    assert all(wanted <= group["template"]["metadata"]["labels"].items() for group in groups)


def test_kubernetes_runs_every_role_once_defined_and_unprivileged() -> None:
    deployments = [
        one for one in documents(DEPLOY / "kubernetes" / "node.yaml") if one["kind"] == "Deployment"
    ]
    roles = []
    for one in deployments:
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        roles.append(container["args"][-1])
        assert spec["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"]["memory"]
        names = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= names
        assert (
            one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]
        )
    # one volume for all: nobody has to fetch images from another host
    assert sorted(roles) == sorted(role.value for role in Role if role is not Role.SHARE)


def test_the_image_copies_what_there_is_and_runs_as_nobody() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER 10104", text, re.MULTILINE)
    allowed = (ROOT / ".dockerignore").read_text()
    for name in ("pyproject.toml", "constraints.txt", "dicom_node", "ai_models"):
        assert f"!{name}" in allowed
