"""What a site lays several hosts out with, compose file, balancer and Helm chart: by their linters and by our words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from contourd import __version__
from contourd.cli import app
from contourd.node.daemon import LONGEST_END_S
from contourd.settings import load_settings
from contourd.spool.access import close_to_others
from contourd.web.access import read_token
from contourd.web.connections import HEALTH
from tests import helm_chart
from tests.peers import require

if find_spec("helm_python") is None:
    pytest.skip("its package has no build for this machine", allow_module_level=True)
ETC = Path(__file__).parents[2] / "etc"
CHART = ETC / "helm" / "contourd"
COMPOSE = yaml.safe_load((ETC / "compose.yaml").read_text(encoding="utf-8"))
CONTAINERFILE = (ETC.parent / "Containerfile").read_text(encoding="utf-8")
SETTINGS = load_settings(ETC / "contourd-hosts.toml")
UID = 10001
OURS = [name for name, service in COMPOSE["services"].items() if service["image"].startswith("${CONTOURD_IMAGE")]
KUBERNETES = ("1.29", "1.37")
GPU = {
    "gpus": 1,
    "runtimeClassName": "nvidia",
    "nodeSelector": {"gpu": "true"},
    "tolerations": [{"operator": "Exists"}],
}
VALUES: list[dict[str, Any]] = [
    {},
    {"workers": GPU, "imagePullSecrets": [{"name": "registry"}], "podAnnotations": {"prometheus.io/scrape": "true"}},
    {"receivers": {"replicas": 3, "volume": {"storageClassName": "fast"}}, "workers": {"replicas": 0}},
    {"service": {"type": "NodePort", "annotations": {"a": "b"}, "loadBalancerSourceRanges": ["10.1.2.0/24"]}},
]


def test_the_compose_file_is_one_by_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    ran = subprocess.run([*command, str(ETC / "compose.yaml")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_all_that_a_service_names_is_in_the_compose_file() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys(), name
        assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
        named = [one if isinstance(one, str) else one["source"] for one in service.get("secrets", ())]
        assert set(named) <= COMPOSE["secrets"].keys(), name
        assert {one["source"] for one in service.get("configs", ())} <= COMPOSE["configs"].keys(), name
        assert {one["source"] for one in service.get("volumes", ()) if "source" in one} <= COMPOSE["volumes"].keys()
    assert (ETC / COMPOSE["configs"]["haproxy.cfg"]["file"]).is_file()


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_of_the_compose_file_has_no_rights_and_no_secret_in_its_environment(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert "privileged" not in service
    for key in service.get("environment", {}):
        assert not re.search(r"PASS|SECRET|TOKEN|KEY", key) or key.endswith("_FILE"), key


def test_each_host_of_the_compose_file_has_a_spool_of_its_own_and_all_have_one_key() -> None:
    spools = []
    for name in OURS:
        service = COMPOSE["services"][name]
        assert {"source": "site.key", "target": f"{SETTINGS.spool.root}/site.key"} in service["secrets"], name
        (spool,) = (volume for volume in service["volumes"] if volume["target"] == str(SETTINGS.spool.root))
        spools.append(spool.get("source", f"the own one of {name}"))
        assert float(service["stop_grace_period"].removesuffix("s")) > LONGEST_END_S, name
        assert service["user"] == f"{UID}:{UID}", name
    assert len(set(spools)) == len(spools) >= 5


def test_the_settings_of_several_hosts_fit_what_is_laid_out() -> None:
    assert SETTINGS.spool.store is not None
    assert SETTINGS.node.associations_per_peer == SETTINGS.node.max_associations
    assert SETTINGS.database.url.startswith("postgresql://contourd:PASSWORD@database/contourd")
    database = COMPOSE["services"]["database"]["environment"]
    assert (database["POSTGRES_USER"], database["POSTGRES_DB"]) == ("contourd", "contourd")
    files = [SETTINGS.spool.store.credentials_file, SETTINGS.web.token_file]
    for name in OURS:
        targets = {one["target"] for one in COMPOSE["services"][name]["secrets"]}
        assert {*map(str, files), "/etc/contourd/contourd.toml"} <= targets, name
    for _, pod in pods({}):
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert {str(SETTINGS.spool.root), "/etc/contourd/contourd.toml"} <= mounts
        assert {str(file.parent) for file in files if file} <= mounts
    ports = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["ports"]
    assert ports == {"dicom": SETTINGS.node.port, "page": SETTINGS.web.port}
    healthy = [COMPOSE["services"][name]["healthcheck"].get("test") for name in OURS]
    for test in filter(None, healthy):
        assert f"http://127.0.0.1:{SETTINGS.web.port}{HEALTH[0]}" in test[-1]


def test_what_is_started_are_commands_of_the_program() -> None:
    started = [COMPOSE["services"][name]["command"] for name in OURS]
    started += [pod["containers"][0]["args"] for _, pod in pods({})]
    assert ["worker"] in started
    assert ["serve", "--no-worker"] in started
    for command in {tuple(one) for one in started}:
        told = CliRunner().invoke(app, [command[0], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert told.exit_code == 0, command
        assert all(option in told.output for option in command[1:]), command


def test_the_image_has_the_drivers_of_several_hosts_and_the_user_of_the_files() -> None:
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", CONTAINERFILE)
    assert {"postgres", "s3"} <= set(extras.split(","))
    assert f"--uid {UID} " in CONTAINERFILE
    for _, pod in pods({}):
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == UID


def test_a_spool_as_it_is_laid_out_is_taken(tmp_path: Path) -> None:
    """A new volume of the compose file begins as the image's folder, and the key lies in it before contourd starts."""
    (mode,) = re.findall(r"install -d .* -m 0(\d+) /var/lib/contourd", CONTAINERFILE)
    tmp_path.chmod(int(mode, 8))
    (tmp_path / "site.key").write_bytes(bytes(32))
    (tmp_path / "site.key").chmod(0o400)
    close_to_others(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == int(mode, 8) == 0o700


def test_what_is_done_before_a_pod_s_start_makes_a_spool_that_is_taken(tmp_path: Path) -> None:
    (script,) = {pod["initContainers"][0]["args"][0] for _, pod in pods({})}
    given, volume, own = tmp_path / "given", tmp_path / "volume", tmp_path / "own"
    for folder in (given, volume, own):
        folder.mkdir()
        folder.chmod(0o2775)
    for name in ("contourd.toml", "site.key", "s3.credentials", "web.token"):
        (given / name).write_text(name * 9, encoding="utf-8")
        (given / name).chmod(0o440)
    here = script.replace("/run/secrets/given", str(given)).replace("/run/secrets/contourd", str(own))
    here = here.replace("/volume", str(volume))
    for _ in range(2):  # the second start finds what the first one made
        ran = subprocess.run(["sh", "-ec", here], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    close_to_others(volume / "spool")
    assert read_token(own / "web.token") == "web.token" * 9
    assert {path.stat().st_mode & 0o777 for path in own.iterdir()} == {0o400}
    (given / "site.key").write_text("of another site", encoding="utf-8")
    ran = subprocess.run(["sh", "-ec", here], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "of another site" in ran.stderr


def test_the_balancer_takes_its_file_and_waits_longer_than_the_node() -> None:
    program, file = require("haproxy"), ETC / "haproxy.cfg"
    ran = subprocess.run([program, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    text = file.read_text(encoding="utf-8")
    waits = {side: float(minutes) * 60 for side, minutes in re.findall(r"timeout (client|server) (\d+)m", text)}
    assert set(waits) == {"client", "server"}
    assert min(waits.values()) > SETTINGS.node.network_timeout_s
    assert {f"bind :{SETTINGS.node.port}", f"bind :{SETTINGS.web.port}"} <= set(map(str.strip, text.splitlines()))
    called = set(re.findall(r"^\s+server (\S+) \1:(\d+)", text, re.MULTILINE))
    assert {name for name, _ in called} == {name for name in OURS if name.startswith("receiver")}
    assert {int(port) for _, port in called} == {SETTINGS.node.port, SETTINGS.web.port}
    assert set(re.findall(r"httpchk GET (\S+)", text)) <= set(HEALTH)


def test_keepalived_knows_every_word_of_its_file(tmp_path: Path) -> None:
    # It ends its own process group when it has looked, so that only what it says tells.
    def looked(text: str) -> str:
        file = tmp_path / "keepalived.conf"
        file.write_text(text, encoding="utf-8")
        command = [require("keepalived"), "--config-test", "--use-file", str(file)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, start_new_session=True)
        return ran.stdout + ran.stderr

    text = (ETC / "keepalived.conf").read_text(encoding="utf-8")
    assert "Unknown keyword" not in looked(text)
    assert "Unknown keyword 'prioritie'" in looked(text.replace("priority", "prioritie"))


def test_helm_finds_nothing_in_the_chart() -> None:
    report = helm_chart.ask(CHART, "lint")
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == [
        "icon is recommended"
    ]  # of severity 1: for your information
    assert helm_chart.ask(CHART, "versions") == [__version__, __version__]


@cache
def rendered(values: str) -> list[dict[str, Any]]:
    files = helm_chart.ask(CHART, "render", json.loads(values))
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def manifests(values: dict[str, Any]) -> list[dict[str, Any]]:
    return rendered(json.dumps(values))


def pods(values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (one["kind"], one["spec"]["template"]["spec"])
        for one in manifests(values)
        if one["kind"] in ("StatefulSet", "Deployment")
    ]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VALUES)
def test_what_the_chart_makes_is_what_kubernetes_takes(values: dict[str, Any], version: str) -> None:
    made = manifests(values)
    kinds = sorted(one["kind"] for one in made)
    assert kinds == ["Deployment", *["PodDisruptionBudget"] * 2, *["Service"] * 3, "StatefulSet"]
    for one in made:
        kubernetes_validate.validate(one, version, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in made]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("values", VALUES)
def test_a_pod_has_no_rights_and_ends_after_the_node(values: dict[str, Any]) -> None:
    for kind, pod in pods(values):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["initContainers"], *pod["containers"]):
            may = container["securityContext"]
            assert may["readOnlyRootFilesystem"] is True
            assert may["allowPrivilegeEscalation"] is False
            assert may["capabilities"] == {"drop": ["ALL"]}
            assert all("valueFrom" not in variable for variable in container.get("env", ()))
        (contourd,) = pod["containers"]
        drains = float(contourd["lifecycle"]["preStop"]["exec"]["command"][1]) if "lifecycle" in contourd else 0.0
        assert pod["terminationGracePeriodSeconds"] - drains > LONGEST_END_S, kind
        here = {volume["name"] for volume in pod["volumes"]} | ({"spool"} if kind == "StatefulSet" else set())
        for container in (*pod["initContainers"], *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= here


def test_receivers_are_asked_how_they_are_and_found_by_their_services() -> None:
    made = manifests({})
    (receivers,) = (one for one in made if one["kind"] == "StatefulSet")
    labels = receivers["spec"]["template"]["metadata"]["labels"]
    assert receivers["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (contourd,) = receivers["spec"]["template"]["spec"]["containers"]
    asked = {name: contourd[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert [asked[name]["path"] for name in asked] == ["/healthz", "/healthz", "/readyz"]
    assert {one["path"] for one in asked.values()} <= set(HEALTH)
    open_ports = {port["name"] for port in contourd["ports"]}
    for service in (one for one in made if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= open_ports
    (called,) = (one["spec"] for one in made if one["spec"].get("type") == "LoadBalancer")
    assert called["sessionAffinity"] == "ClientIP"
    assert receivers["spec"]["serviceName"] in [one["metadata"]["name"] for one in made if one["kind"] == "Service"]
    kept = [one["spec"]["selector"]["matchLabels"] for one in made if one["kind"] == "PodDisruptionBudget"]
    assert receivers["spec"]["selector"]["matchLabels"] in kept


def test_a_worker_has_the_gpus_that_it_is_given() -> None:
    def limits(values: dict[str, Any]) -> dict[str, Any]:
        ((_, pod),) = (one for one in pods(values) if one[0] == "Deployment")
        return dict(pod["containers"][0]["resources"]["limits"])

    assert limits({"workers": {"gpus": 2}}) == {**limits({}), "nvidia.com/gpu": 2}
    ((_, pod),) = (one for one in pods({"workers": GPU}) if one[0] == "Deployment")
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"gpu": "true"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"recievers": {}}, "recievers"),
        ({"receivers": {"replicas": -1}}, "replicas"),
        ({"receivers": {"volume": {"size": "big"}}}, "size"),
        ({"service": {"type": "ClusterIP"}}, "type"),
        ({"ports": {"dicom": 104}}, "dicom"),  # a pod without rights opens no port below 1024
        ({"terminationGracePeriodSeconds": 30}, "terminationGracePeriodSeconds"),
    ],
)
def test_the_chart_refuses_values_that_cannot_be_meant(values: dict[str, Any], told: str) -> None:
    assert told in helm_chart.ask(CHART, "refusal", values)


def test_every_value_of_the_chart_is_in_its_schema_and_the_defaults_pass() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert sorted(schema["properties"].keys() - {"global"}) == helm_chart.ask(CHART, "defaults")
