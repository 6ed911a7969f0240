"""The Kubernetes manifests have the forms that Kubernetes wants, and say the same as everything else that starts us."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.auth import require_loopback_in_development
from cli.stack import COMMANDS, STOP_SECONDS
from shared.settings import Settings
from tests.image import PROJECT

OPS = PROJECT / "ops/kubernetes"
BASE, PRODUCTION = OPS / "base", OPS / "production"
# By kind of object what it holds back from the repository: name of the secret, and what must be in it.
SECRETS = {
    "cuggu-photos": {
        "DATABASE_URL": "postgresql://cuggu@pgbouncer/cuggu",
        "REDIS_URL": "redis://redis:6379/0",
        "JWT_SECRET": "j" * 32,
        "SESSION_SECRET": "s" * 32,
        "REPLICATE_API_TOKEN": "r8_token",
        "REPLICATE_WEBHOOK_SECRETS": '["whsec_c2VjcmV0"]',
        "AZURE_FACE_API_KEY": "key",
    },
    "migrate": {"DATABASE_URL": "postgresql://cuggu@postgres/cuggu"},
    "flower": {"FLOWER_BASIC_AUTH": "ops:word"},
}


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.yaml")):
        yield from (found for found in yaml.safe_load_all(path.read_text()) if found)


MANIFESTS = [found for folder in (BASE, PRODUCTION) for found in documents(folder) if found["kind"] != "Kustomization"]
each_manifest = pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}"
)


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


PODS = [one for one in MANIFESTS if one["kind"] in ("Deployment", "Job")]
each_pod = pytest.mark.parametrize("manifest", PODS, ids=lambda one: str(one["metadata"]["name"]))


@each_manifest
def test_every_object_has_the_form_that_kubernetes_wants(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "spce": {}}, kubernetes_validate.latest_version(), strict=True)


def test_kustomize_takes_every_file_that_there_is() -> None:
    for folder in (BASE, PRODUCTION):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in kustomization["resources"] if not name.startswith("..")} == files
    production = yaml.safe_load((PRODUCTION / "kustomization.yaml").read_text())
    assert "../base" in production["resources"]
    assert {image["name"] for image in production["images"]} == {pod(one)["containers"][0]["image"] for one in PODS}


def test_every_role_runs_the_same_command_as_everywhere() -> None:
    deployments = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == "Deployment"}
    assert deployments.keys() == COMMANDS.keys()
    for role, manifest in deployments.items():
        (container,) = pod(manifest)["containers"]
        assert container["command"] == list(COMMANDS[role])
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod(manifest)["terminationGracePeriodSeconds"] >= STOP_SECONDS[role] + before
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert pod(named("Job", "migrate"))["containers"][0]["command"] == ["alembic", "upgrade", "head"]


@each_pod
def test_pods_run_without_rights_and_within_bounds(manifest: dict[str, Any]) -> None:
    spec = pod(manifest)
    (container,) = spec["containers"]
    user = re.search(r"^USER (\d+)", (PROJECT / "Dockerfile").read_text(), re.M)
    assert user
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user[1]),
        "runAsGroup": int(user[1]),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    # Kubernetes would put API_PORT=tcp://... into every pod, for the sake of the service `api`.
    assert spec["enableServiceLinks"] is False
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert container["resources"].keys() == {"requests", "limits"}


def test_probes_ask_what_answers() -> None:
    wanted = {
        "api": ("/healthz", "/readyz"),
        "worker": ("/healthz", "/readyz"),
        "flower": ("/healthcheck", "/healthcheck"),
    }
    for role, (alive, ready) in wanted.items():
        (container,) = pod(named("Deployment", role))["containers"]
        (port,) = container["ports"]
        for probe, path in (("startupProbe", alive), ("livenessProbe", alive), ("readinessProbe", ready)):
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    (worker,) = pod(named("Deployment", "worker"))["containers"]
    environment = {entry["name"]: entry["value"] for entry in worker["env"]}
    assert environment == {
        "WORKER_HEALTH_HOST": "0.0.0.0",
        "WORKER_HEALTH_PORT": str(worker["ports"][0]["containerPort"]),
    }


@each_pod
def test_pods_get_settings_that_hold_and_every_secret_by_reference(
    manifest: dict[str, Any], clean_environment: None
) -> None:
    (container,) = pod(manifest)["containers"]
    config = dict(line.split("=", 1) for line in (PRODUCTION / "settings.env").read_text().splitlines())
    known = {name.upper() for name in Settings.model_fields} | {"FORWARDED_ALLOW_IPS"}
    assert config.keys() <= known
    assert config.keys().isdisjoint(SECRETS["cuggu-photos"])
    values: dict[str, str] = {}
    for source in container["envFrom"]:
        values |= config if "configMapRef" in source else SECRETS[source["secretRef"]["name"]]
    for entry in container.get("env", ()):
        secret = entry.get("valueFrom", {}).get("secretKeyRef")
        values[entry["name"]] = SECRETS[secret["name"]][secret["key"]] if secret else entry["value"]
    settings = Settings(
        _env_file=None,
        **{
            name.lower(): json.loads(value) if value[:1] == "[" else value
            for name, value in values.items()
            if name.lower() in Settings.model_fields
        },
    )
    assert (settings.auth_mode, settings.storage, settings.predictor) == ("jwt", "s3", "replicate")
    require_loopback_in_development(settings, "0.0.0.0")
    migrates = manifest["metadata"]["name"] == "migrate"
    # A migration counts on its session, so it goes past the pooler.
    assert settings.database_transaction_pooling is not migrates
    assert ("pgbouncer" in settings.database_url) is not migrates
    assert ("FLOWER_BASIC_AUTH" in values) == (manifest["metadata"]["name"] == "flower")


def test_secrets_that_must_be_made_by_hand_are_told() -> None:
    text = (PROJECT / "docs/operations.md").read_text()
    for name, keys in SECRETS.items():
        assert f"create secret generic {name} " in text
        for key in keys:
            assert f"--from-literal={key}=" in text


def test_workers_are_scaled_by_the_age_of_the_queue_and_by_nothing_else() -> None:
    scaler = named("HorizontalPodAutoscaler", "worker")["spec"]
    (metric,) = scaler["metrics"]
    assert metric["external"]["metric"]["name"] == "cuggu_queue_age_seconds"
    assert scaler["scaleTargetRef"]["name"] == "worker"
    assert "replicas" not in named("Deployment", "worker")["spec"]
    assert scaler["minReplicas"] >= 2
    for name in ("api", "worker"):
        budget = named("PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"] == named("Deployment", name)["spec"]["selector"]


def test_the_world_reaches_the_api_alone_and_not_its_figures() -> None:
    (ingress,) = [one for one in MANIFESTS if one["kind"] == "Ingress"]
    paths = [
        (path["path"], path["pathType"], path["backend"]["service"]["name"])
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    assert paths == [("/metrics", "Exact", "nobody"), ("/", "Prefix", "api")]
    assert "selector" not in named("Service", "nobody")["spec"]
    for name in ("api", "flower"):
        service = named("Service", name)["spec"]
        assert service["selector"] == named("Deployment", name)["spec"]["selector"]["matchLabels"]
        assert service.get("type", "ClusterIP") == "ClusterIP"
