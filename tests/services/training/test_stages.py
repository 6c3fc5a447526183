"""All stages on the embedded world, small: what is decided, what is written, and going on after a kill in each."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.settings import Settings
from examples.miniwob.episodes import Episode, load
from examples.miniwob.labelled import row
from examples.miniwob.outcomes import Outcomes
from policies.context import ContextMap
from policies.training.collapse import Health
from policies.training.network import RouterMLP
from policies.training.stage import Round
from services.adapters.registry import Registry
from services.training import artifact
from services.training.checkpoints import Checkpoints
from services.training.comparing import Comparison
from services.training.config import TrainingConfig
from services.training.examples import Example, InvalidData, divide, read
from services.training.measure import score
from services.training.stages import Course
from services.training.summary import decision
from services.training.train import Trained, Training
from tests.services.training.data import quiet, write

FAMILIES = ("click-tab", "count-sides")
SMALL = {"rounds": 2, "steps": 1, "batch_size": 2}


def episodes(n: int) -> list[Episode]:
    return [episode for family in FAMILIES for episode in load(family)[:n]]


def data(path: Path, n: int = 6, *, labelled: bool = True) -> Path:
    table = Outcomes.load()
    return write(path, [row(episode, table, labelled=labelled) for episode in episodes(n)])


def train(path: Path, out: Path, **given: Any) -> Trained:
    small = {"classifier": {"epochs": 4}, "end_to_end": SMALL, "joint": SMALL, "measured": 2, "held_out": 0.3}
    options = TrainingConfig.load(None, **{"components": 4, **small, **given})
    return Training(Settings(), options, out, quiet()).run(path)


def test_all_stages_end_in_a_version_with_its_report(tmp_path: Path) -> None:
    made = train(data(tmp_path / "d.jsonl"), tmp_path / "out", stages=(1, 2, 3))
    assert [stage["stage"] for stage in made.known["stages"]] == ["stage 1", "stage 2", "stage 3"]
    assert [one["stage"] for one in made.known["decisions"]] == ["stage 2", "stage 3"]
    assert made.known["recommendation"]["way"] in ("hard", "top2", "soft")
    assert set(made.known["recommendation"]["ways"]) == {"hard", "top2", "soft"}
    assert (made.version / "curves.png").stat().st_size > 10_000
    page = (made.version / "report.html").read_text()
    assert made.known["router"] in page
    assert "stage 3: success" in page
    kept_round = next(one for one in made.known["stages"] if one["stage"] == "stage 3")["kept"]
    joint = made.known["kept"] == "stage 3" and kept_round > 0
    assert (made.version / "adapters").is_dir() == joint
    if joint:
        assert set(Registry(made.version / "adapters").paths) == set(made.known["arms"])


def test_a_router_to_some_adapters_has_those_whether_rows_name_them_or_not(tmp_path: Path) -> None:
    families = ("click-tab", "count-sides", "click-color")
    rows = [row(e, Outcomes.load(), labelled=True) for family in families for e in load(family)[:6]]
    path, arms = write(tmp_path / "d.jsonl", rows), ("click-dialog", "click-tab", "count-sides")
    made = train(path, tmp_path / "out", stages=(1, 2), arms=arms)
    assert ContextMap.load(made.version).arms == arms
    assert set(made.known["metrics"]) >= {"mlp_accuracy"}
    with pytest.raises(InvalidData, match="no row names click-dialog or click-widget, expected labels for stage 1"):
        train(path, tmp_path / "out", stages=(1,), arms=("click-dialog", "click-widget"))


def test_every_block_may_get_a_head_of_its_own(tmp_path: Path) -> None:
    path = data(tmp_path / "d.jsonl")
    plain = train(path, tmp_path / "out", stages=(1, 2))
    made = train(path, tmp_path / "out", stages=(1, 2), layer_gates=True)
    contexts = ContextMap.load(made.version)
    trained = made.courses[1].mlp.apart
    assert trained.shape == (6, len(contexts.arms), 33)
    assert plain.courses[1].mlp.apart.shape[0] == 0
    assert made.known["run"] != plain.known["run"]
    learned = made.known["kept"] == "stage 2" and made.courses[1].kept.number > 0
    assert len(contexts.projection.apart) == (6 if learned else 0)


def test_without_labels_no_label_is_invented(tmp_path: Path) -> None:
    made = train(data(tmp_path / "d.jsonl", labelled=False), tmp_path / "out")
    contexts = ContextMap.load(made.version)
    assert [stage["stage"] for stage in made.known["stages"]] == ["stage 2"]
    assert set(made.known["arms"]) == {adapter.name for adapter in Registry(Settings().model.adapters)}
    assert made.known["calibration"] is None
    assert len(contexts.supervision.labels) == 0
    kept = artifact.read_examples(made.version)
    assert kept is not None
    assert set(kept.labels) == {""}
    measured = ~np.isnan(kept.outcomes)
    assert measured[:, kept.arms.index("base")].sum() == 2
    assert not measured[kept.aside].any()
    assert "base" in contexts.statistics.arms
    assert contexts.statistics.n == 2


def test_stages_need_what_they_learn_from(tmp_path: Path) -> None:
    untold = [{k: v for k, v in row(e, Outcomes.load()).items() if k not in ("target", "boxes")} for e in episodes(4)]
    with pytest.raises(InvalidData, match="no row has a target"):
        train(write(tmp_path / "a.jsonl", untold), tmp_path / "out", stages=(1, 2))
    with pytest.raises(InvalidData, match="no row names an adapter"):
        train(data(tmp_path / "b.jsonl", labelled=False), tmp_path / "out", stages=(1,))
    with pytest.raises(ValueError, match="expected 1 or 2 before it"):
        train(data(tmp_path / "c.jsonl"), tmp_path / "out", stages=(3,))
    with pytest.raises(ValueError, match="arms: 'tickets' is unknown"):
        train(data(tmp_path / "c.jsonl"), tmp_path / "out", arms=("tickets",))


def test_an_answer_is_right_in_a_box_or_word_for_word(tmp_path: Path) -> None:
    (example, *_) = read(data(tmp_path / "d.jsonl", 1))
    x0, y0, x1, _ = example.boxes[0]
    assert score(example, example.target) == 1.0
    assert score(example, f'{{"coordinate": [{x0:.0f}, {y0:.0f}]}}') == 1.0
    assert score(example, f'{{"coordinate": [{x1:.0f}, {y0:.0f}]}}') == 0.0
    assert score(example, "no click") == 0.0
    worded = Example(**{**vars(example), "boxes": ()})
    assert score(worded, f" {example.target}\n") == 1.0
    assert score(worded, "left") == 0.0


def course(stage: str, arm: str) -> Course:
    """A stage that sends everything to one adapter."""
    mlp = RouterMLP(385, 2, ["click-tab", "count-sides"])
    with torch.no_grad():
        for weight in mlp.parameters():
            weight.zero_()
        mlp.second.bias[mlp.arms.index(arm)] = 5.0
    none = Round(1, 0.0, 0.0, Health({}, {}, 0.0, 0.0, {}))
    return Course(stage, [none], none, mlp)


def test_a_stage_that_answers_worse_is_rolled_back(tmp_path: Path) -> None:
    rows = [e for e in divide(read(data(tmp_path / "d.jsonl", 4)), 0.5, 0) if e.label == "click-tab"]
    config = TrainingConfig(measured=4)
    good, bad = course("stage 1", "click-tab"), course("stage 2", "count-sides")
    H = np.zeros((len(rows), 385))
    with Comparison(Settings(), config, Registry(Settings().model.adapters), rows, H, quiet()) as comparison:
        assert comparison.decide([good, bad]) is good
        assert comparison.decide([bad, good]) is good
    assert [one["kept"] for one in comparison.decisions] == [False, True]
    assert comparison.decisions[0]["lost"] == comparison.decisions[1]["won"] > 0
    assert decision(comparison.decisions[0]).endswith("rolled back to stage 1")


_KILLED = """
import os, signal, sys
from pathlib import Path
from policies.training.end_to_end import EndToEnd
from services.training import checkpoints
from tests.services.training.test_stages import train

loss = EndToEnd._loss
def dying(stage, *given):
    if stage.name == sys.argv[3] and len(stage.history) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(stage, *given)
EndToEnd._loss = dying
checkpoints._EVERY_S = 0.0
train(Path(sys.argv[1]), Path(sys.argv[2]), stages=(1, 2, 3))
"""


def test_killed_in_stages_2_and_3_the_same_command_ends_with_the_same_router(tmp_path: Path) -> None:
    path, out = data(tmp_path / "d.jsonl"), tmp_path / "out"
    for stage in ("stage 2", "stage 3"):
        command = [sys.executable, "-c", _KILLED, str(path), str(out), stage]
        killed = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {state.name for state in out.glob(".runs/*/*.pt")} == {"stage-1.pt", "stage-2.pt", "stage-3.pt"}
    resumed = train(path, out, stages=(1, 2, 3))
    unbroken = train(path, tmp_path / "other", stages=(1, 2, 3))
    assert not resumed.found
    assert resumed.known["stages"] == unbroken.known["stages"]
    assert resumed.known["decisions"] == unbroken.known["decisions"]
    assert resumed.known["router"] == unbroken.known["router"]
    states = [last_state(folder, "stage 3") for folder in (out, tmp_path / "other")]
    for part in ("mlp", "experts"):
        for name, weight in states[0]["weights"][part].items():
            assert torch.equal(weight, states[1]["weights"][part][name])


def last_state(out: Path, stage: str) -> dict[str, Any]:
    """How a stage ended, be it kept or rolled back."""
    (run,) = (out / ".runs").iterdir()
    state = Checkpoints(run.parent, run.name).load(stage)
    assert state is not None
    return state
