"""What cannot be served is refused before anything is started."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import Settings
from policies.context import ContextMap
from policies.supervision import Supervision
from services.app import build, check
from services.configuration import feature_spec
from services.edge.auth import key_hash
from services.launch import running

KEY = {"name": "agents", "sha256": key_hash("secret"), "scopes": ["infer"]}


def settings(**groups: dict[str, Any]) -> Settings:
    return Settings.model_validate(groups)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "box.example"])
def test_an_open_address_needs_keys(host: str) -> None:
    with pytest.raises(ValueError, match=rf"server.host is '{host}'.*auth.keys is empty"):
        build(settings(server={"host": host}))
    build(settings(server={"host": host}, auth={"keys": [KEY]}))


def test_loopback_needs_none() -> None:
    check(settings())


def test_a_fixed_arm_must_exist() -> None:
    check(settings(router={"policy": "fixed"}))
    with pytest.raises(ValueError, match=r"router.fixed_arm: 'nobody' is unknown, expected one of base, "):
        check(settings(router={"policy": "fixed", "fixed_arm": "nobody"}))


def test_a_policy_must_have_what_it_goes_by(tmp_path: Path) -> None:
    known = ContextMap.load(Settings().router.path)
    replace(known, supervision=Supervision()).save(tmp_path)
    with pytest.raises(ValueError, match=r"router.policy: policy 'knn' has 0 labelled examples"):
        check(settings(router={"policy": "knn", "path": tmp_path}))
    with pytest.raises(ValueError, match=r"router.shadow_policies: policy 'poly' has 0 tasks"):
        check(settings(router={"policy": "retrieval", "shadow_policies": ["mlp", "poly"], "path": tmp_path}))
    check(settings(router={"policy": "retrieval", "path": tmp_path}))


def test_a_router_must_be_there_and_fit_the_adapters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"router.path: .* has no router.json"):
        check(settings(router={"path": tmp_path}))
    (tmp_path / "router.json").write_text("{")
    with pytest.raises(ValueError, match=r"router.path: .* has no router.safetensors"):
        check(settings(router={"path": tmp_path}))
    adapters = tmp_path / "adapters"
    known = next(path for path in sorted(Settings().model.adapters.iterdir()))
    shutil.copytree(known, adapters / known.name)
    with pytest.raises(ValueError, match=r"routes to .*, expected adapters of model.adapters"):
        check(settings(model={"adapters": adapters}))


def test_a_router_must_have_been_trained_on_features_of_this_base(tmp_path: Path) -> None:
    known = ContextMap.load(Settings().router.path)
    here = feature_spec(Settings()).document
    for changed, said in (
        ({"model": "0123456789abcdef"}, rf"features.model 0123456789abcdef, expected {here['model']} as the base of"),
        ({"encode_blocks": 7}, "features.encode_blocks 7, expected 2 as model.encode_blocks"),
    ):
        replace(known, features=here | changed).save(tmp_path)
        with pytest.raises(ValueError, match=f"router.path: {tmp_path} has {said}"):
            check(settings(router={"path": tmp_path}))
    for same in (here, here | {"model": "Qwen/Qwen3-VL-4B-Instruct"}):  # a name says nothing of files, nor they of it
        replace(known, features=same).save(tmp_path)
        check(settings(router={"path": tmp_path}))


def test_replicas_and_requests_in_flight_are_as_set() -> None:
    server = {"routers": 3, "max_ongoing": 7, "max_queued": 5}
    application: Any = build(settings(server=server, model={"replicas": 2, "gpus": 0.5}))
    router = application._bound_deployment
    model = router.init_args[1]._bound_deployment
    assert (router.num_replicas, router.max_ongoing_requests, router.max_queued_requests) == (3, 7, 5)
    assert (model.num_replicas, model.ray_actor_options["num_gpus"]) == (2, 0.5)


def test_some_room_to_wait_is_needed() -> None:
    """Serve knows no queue of none."""
    with pytest.raises(ValueError, match=r"server\.max_queued\s.*greater than or equal to 1"):
        settings(server={"max_queued": 0})


def test_another_cluster_needs_a_store_that_it_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(ValueError, match=r"store\.url is empty"), running(settings(), address="ray-head:6379"):
        pass


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = settings(server={"port": port}, store={"data_dir": tmp_path})
        with pytest.raises(RuntimeError, match=rf"server.port: cannot listen on 127.0.0.1:{port}"), running(wanted):
            pass
