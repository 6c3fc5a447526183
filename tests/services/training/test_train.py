"""A training from a file to a version: found again, resumed after a kill, and refused where it must be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.settings import Settings
from policies.context import ContextMap
from policies.prior import LearningConfig, Prior
from services.adapters.metadata import InvalidAdapter
from services.engine.base import Prompt
from services.training import artifact
from services.training.checkpoints import Checkpoints
from services.training.config import TrainingConfig
from services.training.examples import InvalidData
from services.training.train import Trained, Training
from tests.services.fakes import FAMILIES, FakeEngine
from tests.services.training.data import fake_engine, quiet, row, rows, write


def options(**given: object) -> TrainingConfig:
    return TrainingConfig.load(None, **{"hidden": 6, "components": 3, "classifier": {"epochs": 12}, **given})


def train(data: Path, out: Path, adapters: Path, **given: object) -> Trained:
    settings = Settings.model_validate({"model": {"adapters": adapters}})
    return Training(settings, options(**given), out, quiet(), fake_engine).run(data)


def test_a_file_becomes_a_router_that_finds_its_adapters(tmp_path: Path, adapters: Path) -> None:
    made = train(write(tmp_path / "d.jsonl", rows()), tmp_path / "out", adapters)
    contexts = ContextMap.load(made.version)
    assert made.version.name == "v0001"
    assert made.known["router"] == contexts.fingerprint
    assert contexts.metrics["mlp_accuracy"] == 1.0
    assert contexts.features["encode_blocks"] == 2
    assert set(contexts.statistics.arms) == {"base", *contexts.arms}
    assert made.known["calibration"]["ece_after"] <= made.known["calibration"]["ece_before"]
    assert made.known["alarms"] == []
    kept = artifact.read_examples(made.version)
    assert kept is not None
    assert kept.labels == tuple(one["adapter"] for one in rows())
    assert kept.outcomes[:, kept.arms.index("base")] == pytest.approx(np.full(60, 0.2))


def test_the_same_run_is_found_and_others_are_new_versions(tmp_path: Path, adapters: Path) -> None:
    data = write(tmp_path / "d.jsonl", rows())
    first = train(data, tmp_path / "out", adapters)
    again, other = train(data, tmp_path / "out", adapters), train(data, tmp_path / "out", adapters, seed=1)
    write(data, rows()[:-3])
    fewer = train(data, tmp_path / "out", adapters)
    assert again.found
    assert again.version == first.version
    assert [other.version.name, fewer.version.name] == ["v0002", "v0003"]
    assert len({made.known["router"] for made in (first, other, fewer)}) == 3


def test_features_are_computed_once(tmp_path: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = FakeEngine.encode

    async def counted(engine: FakeEngine, prompt: Prompt) -> bytes:
        encoded.append(prompt.instruction)
        return await encode(engine, prompt)

    monkeypatch.setattr(FakeEngine, "encode", counted)
    data = write(tmp_path / "d.jsonl", [*rows(30), *rows(30)])
    train(data, tmp_path / "out", adapters)
    train(data, tmp_path / "out", adapters, seed=1)
    assert len(encoded) == 30
    settings = Settings.model_validate({"model": {"adapters": adapters, "encode_blocks": 1}})
    Training(settings, options(), tmp_path / "out", quiet(), fake_engine).run(data)
    assert len(encoded) == 60


def test_an_adapter_that_occurs_only_among_the_held_out_is_missed_not_fatal(tmp_path: Path, adapters: Path) -> None:
    written = [row(i, ("inbox", "claims")[i % 2], split="train" if i < 30 else "held_out") for i in range(40)]
    written += [row(i, "calendar", split="held_out") for i in range(3)]
    made = train(write(tmp_path / "d.jsonl", written), tmp_path / "out", adapters)
    assert made.known["arms"] == ["claims", "inbox"]
    assert "calendar is lost: 0% of its requests find it" in made.known["alarms"]
    assert "calendar" in ContextMap.load(made.version).statistics.arms


def test_a_mixture_that_was_measured_is_known_by_it_and_is_never_right(tmp_path: Path, adapters: Path) -> None:
    measured = [row(i, FAMILIES[i % 3], outcomes={"base": 0.2, "soft": 0.7}) for i in range(60)]
    made = train(write(tmp_path / "d.jsonl", measured), tmp_path / "out", adapters)
    contexts = ContextMap.load(made.version)
    assert "soft" in contexts.statistics.arms
    assert "soft" not in contexts.arms
    prior = Prior(contexts.statistics, LearningConfig())
    assert float(contexts.map_batch(np.zeros((1, contexts.input_dimension)))[0][0] @ prior.mean_of("soft")) > 0.4
    with pytest.raises(InvalidData, match="adapter 'soft' is unknown"):
        train(write(tmp_path / "d.jsonl", [*measured, row(1, "soft")]), tmp_path / "out", adapters)


def test_balancing_can_be_turned_off(tmp_path: Path, adapters: Path) -> None:
    data = write(tmp_path / "d.jsonl", rows())
    assert (
        train(data, tmp_path / "a", adapters).known["router"]
        != (train(data, tmp_path / "a", adapters, balanced=False).known["router"])
    )


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, adapters: Path) -> None:
    with pytest.raises(InvalidData, match="row 61: adapter 'tickets' is unknown, expected one of base, calendar"):
        train(write(tmp_path / "a.jsonl", [*rows(), row(1, "tickets")]), tmp_path / "out", adapters)
    with pytest.raises(ValueError, match="expected at least 2 arms"):
        train(write(tmp_path / "b.jsonl", [row(i, "inbox") for i in range(9)]), tmp_path / "out", adapters)
    with pytest.raises(InvalidAdapter, match="not a directory"):
        train(tmp_path / "a.jsonl", tmp_path / "out", tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classifier: {epoch: 3}", r"option 'epoch' of classifier is unknown, expected some of epochs, patience"),
        ("sede: 1", r"option 'sede' is unknown, expected some of seed, held_out"),
        ("hidden: wide", r"hidden: 'wide': Input should be a valid integer"),
        ("[1, 2", r"bad\.yaml is not YAML: "),
        ("[1, 2]", r"list, expected options by name"),
    ],
)
def test_an_option_that_there_is_not_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.yaml.*{said}" if "not YAML" not in said else said):
        TrainingConfig.load(tmp_path / "bad.yaml")


def test_options_come_from_a_file_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("seed: 4\nhidden: 9\nclassifier: {epochs: 3}\n")
    found = TrainingConfig.load(tmp_path / "options.yaml", seed=5, balanced=None)
    assert (found.seed, found.hidden, found.classifier.epochs, found.balanced) == (5, 9, 3, True)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").save("stage 1", {"n": 1})
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "stage-1.pt").rename(tmp_path / "two" / "stage-1.pt")
    with pytest.raises(ValueError, match="of run one, expected two"):
        Checkpoints(tmp_path, "two").load("stage 1")


_KILLED = """
import os, signal, sys
from pathlib import Path
from policies.training.classifier import Classifier
from services.training import checkpoints
from tests.services.training.test_train import train

advance = Classifier.advance
def dying(stage):
    if len(stage.history) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(stage)
Classifier.advance = dying
checkpoints._EVERY_S = 0.0
train(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_in_stage_1_the_same_command_ends_with_the_same_router(tmp_path: Path, adapters: Path) -> None:
    data = write(tmp_path / "d.jsonl", rows())
    command = [sys.executable, "-c", _KILLED, *map(str, (data, tmp_path / "out", adapters))]
    killed = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (state,) = (tmp_path / "out" / ".runs").glob("*/stage-1.pt")
    assert len(Checkpoints(state.parents[1], state.parent.name).load("stage 1")["history"]) == 5  # type: ignore[index]
    resumed = train(data, tmp_path / "out", adapters)
    unbroken = train(data, tmp_path / "other", adapters)
    assert not resumed.found
    assert resumed.known["router"] == unbroken.known["router"]
    assert resumed.known["stages"] == unbroken.known["stages"]
