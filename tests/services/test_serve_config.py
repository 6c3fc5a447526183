"""What is deployed is what the settings say, and every file that we ship fits the schema of who reads it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml
from ray.serve.config import AutoscalingContext
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from cluster.settings import TUNABLE, Settings
from services.app import application, build
from services.cli.main import app
from services.edge.auth import key_hash
from services.edge.cache_metrics import cache_exposition
from services.edge.metrics import Metrics, merged
from services.model.replica import ModelReplica
from services.model.scaling import PAGE_IN, Scaling
from services.serve_config import serve_config
from tests.services.world import World

DEPLOY = Path(__file__).parents[2] / "cluster" / "deploy"
REDIS = {"url": "redis://127.0.0.1:6379/0"}
KEY = {"name": "agents", "sha256": key_hash("secret"), "scopes": ["infer"]}


def made(**groups: dict[str, Any]) -> dict[str, Any]:
    config = serve_config(Settings.model_validate({"store": REDIS, **groups}))
    ServeDeploySchema.model_validate(config)
    return cast(dict[str, Any], config["applications"][0])


def test_what_is_tunable_restarts_nothing() -> None:
    before, after = made(), made(router={"alpha": 0.7}, guard={"fallback": False})
    assert before["args"] == after["args"]
    assert after["deployments"] == [
        {"name": "Router", "user_config": {"router": {"alpha": 0.7}, "guard": {"fallback": False}}}
    ]
    assert made(router={"epsilon_uniform": 0.1})["args"] != before["args"]


def test_the_configuration_brings_back_the_settings() -> None:
    given = {"model": {"max_batch": 3}, "auth": {"keys": [KEY]}, "server": {"host": "0.0.0.0", "port": 9000}}
    args = made(**cast(dict[str, dict[str, Any]], given))["args"]
    assert Settings.model_validate(json.loads(json.dumps(args))) == Settings.model_validate({**given, "store": REDIS})
    application(Settings.model_validate(args))


@pytest.mark.parametrize(
    ("url", "said"), [("", "store.url is empty"), ("redis://:secret@127.0.0.1:1/0", "store.url holds a password")]
)
def test_a_redis_must_be_reached_and_may_not_be_shown(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = Settings.model_validate({"store": {"url": url}})
    with pytest.raises(ValueError, match=f"{said}.*--redis-from-nodes") as caught:
        serve_config(settings)
    assert "secret" not in str(caught.value)
    assert "store" not in serve_config(settings, redis_from_nodes=True)["applications"][0]["args"]


def test_tuned_changes_what_is_tunable_only() -> None:
    settings = Settings()
    tuned = settings.tuned({"router": {"alpha": 0.5}, "guard": {"fallback": False}})
    assert (tuned.router.alpha, tuned.guard.fallback) == (0.5, False)
    assert tuned.router.burn_in == settings.router.burn_in
    assert settings.router.alpha == 0.2
    with pytest.raises(ValueError, match=r"router.policy cannot change while the service runs, expected"):
        settings.tuned({"router": {"policy": "mlp"}})
    with pytest.raises(ValueError, match=r"model.max_batch cannot change"):
        settings.tuned({"model": {"max_batch": 2}})
    with pytest.raises(ValueError, match=r"alpha\n.*greater than or equal to 0"):
        settings.tuned({"router": {"alpha": -1}})


def test_every_tunable_is_a_setting() -> None:
    for group, names in TUNABLE.items():
        assert names <= set(type(getattr(Settings(), group)).model_fields)


def test_print_writes_the_configuration() -> None:
    done = CliRunner().invoke(app, ["deploy", "--print"], env={"POINTSMAN_STORE__URL": REDIS["url"]})
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.output) == serve_config(Settings.model_validate({"store": REDIS}))


def test_every_replica_logs_in_the_form_that_is_set() -> None:
    made = _deployments(build(Settings.model_validate({"store": REDIS, "telemetry": {"log_format": "json"}})))
    assert {each.name: each._deployment_config.logging_config["encoding"] for each in made} == dict.fromkeys(
        ("Router", "Model", "Learner"), "JSON"
    )


class TestScaling:
    """Replicas follow the requests, and the requests that wait for adapters."""

    @pytest.mark.parametrize(
        ("current", "ongoing", "waiting", "wanted"),
        [
            (1, 0, 0.0, 1),
            (1, 8, 0.0, 1),
            (1, 9, 0.0, 2),
            (2, 40, 0.0, 5),
            (2, 10, 0.3, 3),  # more wait for adapters than may
            (2, 10, 0.2, 2),
            (3, 0, 0.9, 1),  # nobody is there to wait
        ],
    )
    def test_replicas(self, current: int, ongoing: float, waiting: float, wanted: int) -> None:
        assert Scaling(target=8, page_in_share=0.2).replicas(current, ongoing, waiting) == wanted

    def test_it_reads_what_serve_tells(self) -> None:
        context = SimpleNamespace(
            current_num_replicas=2, total_num_requests=10.0, aggregated_metrics={PAGE_IN: {"a": 0.1, "b": 0.7}}
        )
        scaling = Scaling(target=8, page_in_share=0.2)
        assert scaling(cast(AutoscalingContext, context)) == (3, {})
        context.aggregated_metrics = None
        assert scaling(cast(AutoscalingContext, context)) == (2, {})

    async def test_replicas_report_what_it_reads(self, world: World) -> None:
        """Of the adapters that requests held since the last report, those that had to be paged in."""
        replica = cast(ModelReplica, world.router.model)
        await replica.record_autoscaling_stats()  # the world's own start
        assert await replica.record_autoscaling_stats() == {PAGE_IN: 0.0}
        await world.ask(model="inbox")
        assert await replica.record_autoscaling_stats() == {PAGE_IN: 0.0}
        world.cache.follow([])  # all are outdated: the next one pages its own in
        await world.ask(model="inbox")
        assert await replica.record_autoscaling_stats() == {PAGE_IN: 1.0}

    def test_serve_takes_it(self) -> None:
        settings = Settings.model_validate({"store": REDIS, "model": {"replicas": 2, "max_replicas": 5}})
        models = next(node for node in _deployments(build(settings)) if node.name == "Model")
        scaling = models._deployment_config.autoscaling_config
        assert scaling is not None
        assert (scaling.min_replicas, scaling.max_replicas, scaling.upscale_delay_s) == (2, 5, 30)
        assert scaling.policy.policy_kwargs == {"target": 8, "page_in_share": 0.2}

    def test_bounds_in_the_wrong_order_are_refused(self) -> None:
        with pytest.raises(ValueError, match="max_replicas is 1, expected 0 or at least 2"):
            Settings.model_validate({"model": {"replicas": 2, "max_replicas": 1}})


def _deployments(application: Any) -> list[Any]:
    """Every deployment of an application, from its ingress inwards."""
    bound = application._bound_deployment
    inner = [each for each in bound.init_args if hasattr(each, "_bound_deployment")]
    return [bound, *(found for each in inner for found in _deployments(each))]


class TestFiles:
    """cluster/deploy, against Serve's, Kubernetes' and our own schemas."""

    def test_serve(self) -> None:
        config = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
        ServeDeploySchema.model_validate(config)
        _check_application(config["applications"][0])

    def test_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POINTSMAN_CONFIG", str(DEPLOY / "settings.yaml"))
        settings = Settings()
        assert settings.server.host == "0.0.0.0"
        assert settings.auth.keys[0].sha256 == key_hash("compose-example")

    def test_kuberay(self) -> None:
        service = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
        assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
        spec, ray = service["spec"], service["spec"]["rayClusterConfig"]
        _known(spec, "RayServiceSpec", {"serveConfigV2", "rayClusterConfig", "upgradeStrategy"})
        assert spec["upgradeStrategy"]["type"] in {"NewCluster", "None", "NewClusterWithIncrementalUpgrade"}
        fields = {"rayVersion", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"}
        _known(ray, "RayClusterSpec", fields | {"workerGroupSpecs"})
        _known(ray["gcsFaultToleranceOptions"], "GcsFaultToleranceOptions", {"redisAddress", "redisPassword"})
        for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
            numbers = {"groupName", "replicas", "minReplicas", "maxReplicas"}
            _known(group, "WorkerGroupSpec", {"rayStartParams", "template"} | numbers)
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
            kubernetes_validate.validate(pod, "1.31", strict=True)
        serve = yaml.safe_load(spec["serveConfigV2"])
        ServeDeploySchema.model_validate(serve)
        _check_application(serve["applications"][0])

    def test_compose(self) -> None:
        compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        for name, service in compose["services"].items():
            for port in service.get("ports", []):
                assert port.startswith("127.0.0.1:"), f"{name} publishes {port} beyond this machine"
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                assert source in compose["volumes"] or (DEPLOY / source).exists(), f"{name} mounts {volume}"
        durable = compose["services"]["redis"]["command"]
        assert durable[1:] == ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]

    def test_alerts_and_dashboard_ask_for_metrics_that_there_are(self) -> None:
        text = (merged({"r": Metrics().render()}) + cache_exposition([])).decode()
        known = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        asked = (DEPLOY / "alerts.yaml").read_text() + (DEPLOY / "grafana" / "pointsman.json").read_text()
        names = set(re.findall(r"\bpointsman_\w+", asked))
        assert len(names) > 8
        assert {re.sub("_bucket$", "", name) for name in names} <= known

    def test_every_alert_has_a_heading_in_the_runbook(self) -> None:
        (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
        headings = re.findall(r"^## (\w+)$", (DEPLOY.parents[1] / "docs" / "operate.md").read_text(), re.M)
        assert [rule["alert"] for rule in group["rules"]] == headings
        for rule in group["rules"]:
            assert rule["annotations"]["runbook"] == f"docs/operate.md#{rule['alert'].lower()}"


def _check_application(application: dict[str, Any]) -> None:
    settings = Settings.model_validate(application["args"])
    assert settings.auth.keys
    for deployment in application.get("deployments", []):
        settings.tuned(deployment["user_config"])


def _known(given: dict[str, Any], kind: str, fields: set[str]) -> None:
    """Fields of KubeRay's API v1, as its reference lists them."""
    assert not given.keys() - fields, f"{kind}: {given.keys() - fields}"


def test_several_routers_make_one_exposition() -> None:
    one, other = Metrics(), Metrics()
    one.decisions.labels("inbox", "false").inc()
    other.decisions.labels("inbox", "false").inc(2)
    text = merged({"r1": one.render(), "r2": other.render()}).decode()
    assert 'pointsman_decisions_total{arm="inbox",explored="false",router="r1"} 1.0' in text
    assert 'pointsman_decisions_total{arm="inbox",explored="false",router="r2"} 2.0' in text
    assert text.count("# TYPE pointsman_decisions_total counter") == 1
