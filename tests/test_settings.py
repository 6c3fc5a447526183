"""Every setting is documented, is read somewhere, and comes from where the page says."""

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from cluster.settings import Settings
from policies.base import PolicyConfig
from policies.prior import LearningConfig
from services.cli.tables import settings_markdown
from services.configuration import learning_config, policy_config

ROOT = Path(__file__).parent.parent


def fields() -> list[tuple[str, str]]:
    """Group and name of every setting."""
    found = []
    for group, field in Settings.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        found += [(group, name) for name in field.annotation.model_fields]
    return found


HOLDERS = {  # what a group is called where it is looked up, besides its own name
    ("router", "router.py"): "settings",
    ("limits", "chat.py"): "_limits",
    ("limits", "fetching.py"): "_limits",
    ("auth", "auth.py"): "settings",
    ("model", "settings.py"): "self",
    ("store", "settings.py"): "self",
    ("server", "settings.py"): "self",
}


def lookups() -> set[str]:
    """`group.name` of every setting that is looked up, as an attribute of its group or by `configuration.py`."""
    found: set[str] = set()
    for file in [*(ROOT / "services").rglob("*.py"), ROOT / "cluster" / "settings.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                holder = getattr(node.value, "attr", getattr(node.value, "id", ""))
                groups = [g for g in Settings.model_fields if holder in (g, HOLDERS.get((g, file.name)))]
                found.update(f"{group}.{node.attr}" for group in groups)
    for name in vars(policy_config(Settings())):
        found.add(f"router.{name}")
    for name in vars(learning_config(Settings())):
        found.add(f"learner.{name}")
    return found


@pytest.mark.parametrize(("group", "name"), fields())
def test_every_setting_says_what_it_does(group: str, name: str) -> None:
    description = getattr(Settings(), group).__class__.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_the_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == settings_markdown(), "run: pointsman settings --markdown > docs/settings.md"


def test_every_setting_is_read_by_something_that_runs() -> None:
    """A setting that no code outside its declaration looks up cannot have an effect."""
    found = [(group, name) for group, name in fields() if f"{group}.{name}" not in lookups()]
    assert found == []


def test_the_policies_alone_start_from_the_same_values() -> None:
    assert policy_config(Settings()) == PolicyConfig()
    assert learning_config(Settings()) == LearningConfig()


def test_the_environment_overrides_the_file_and_arguments_override_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pointsman.yaml"
    file.write_text("server: {host: 127.0.0.2, port: 7001}\nrouter: {alpha: 2.5}\n")
    monkeypatch.setenv("POINTSMAN_CONFIG", str(file))
    monkeypatch.setenv("POINTSMAN_SERVER__PORT", "7002")
    settings = Settings.model_validate({"router": {"burn_in": 3}})
    assert (settings.server.host, settings.server.port) == ("127.0.0.2", 7002)
    assert (settings.router.alpha, settings.router.burn_in) == (2.5, 3)


def test_lists_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_LIMITS__IMAGE_HOSTS", '["images.example"]')
    assert Settings().limits.image_hosts == {"images.example"}


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("server", "prot", 1),
        ("server", "port", 0),
        ("router", "epsilon_uniform", 1.5),
        ("learner", "discount", 0),
        ("model", "dtype", "int3"),
        ("auth", "keys", [{"name": "a", "sha256": "plain text", "scopes": ["infer"]}]),
        ("auth", "keys", [{"name": "a", "sha256": "0" * 64, "scopes": ["root"]}]),
    ],
)
def test_a_wrong_setting_is_named(group: str, name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=rf"{group}\.{name}"):
        Settings.model_validate({group: {name: value}})


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_CONFIG", "/nowhere/pointsman.yaml")
    with pytest.raises(FileNotFoundError, match=r"POINTSMAN_CONFIG.*/nowhere/pointsman.yaml"):
        Settings()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_loopback_is_told_from_open_addresses(host: str, loopback: bool) -> None:
    assert Settings.model_validate({"server": {"host": host}}).server.is_loopback is loopback
