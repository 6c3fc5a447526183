"""Live episodes without a browser: what is asked, clicked and said of a page that follows a script."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from examples.miniwob import live
from examples.miniwob.episodes import click_call
from examples.miniwob.families import FAMILIES, NEWER, Family
from examples.miniwob.live import LiveTask, NoBrowser, Played, Player, fresh
from examples.miniwob.live_demo import tasks
from examples.miniwob.story import ALL, KNOWN, REGRESSED

TWO_CLICKS = next(family for family in FAMILIES.values() if len(family.steps) == 2)


class ScriptedPage:
    """Ends after the clicks that it needs."""

    def __init__(self, needed: int, reward: float) -> None:
        self.clicks: list[tuple[float, float]] = []
        self.seed = 0
        self._needed = needed
        self._reward = reward

    def start(self, seed: int) -> None:
        self.seed = seed

    def photograph(self) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (160, 160), "white").save(file, "PNG")
        return file.getvalue()

    def instruction(self) -> str:
        return "Click twice."

    def click(self, x: float, y: float) -> None:
        self.clicks.append((x, y))

    def is_done(self) -> bool:
        return len(self.clicks) >= self._needed

    def reward(self) -> float:
        return self._reward if self.is_done() else 0.0


class Answer:
    """What the OpenAI client gives back."""

    def __init__(self, text: str) -> None:
        message = type("Message", (), {"content": text})
        self.choices = [type("Choice", (), {"message": message})]
        self.model_extra = {"routing": {"arm": "somebody"}}


class ScriptedAgents:
    """Answers the same to every step."""

    def __init__(self, text: str) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.said: list[dict[str, Any]] = []
        self._text = text

    async def ask(self, messages: Any, task: str, episode: str | None = None) -> Answer:
        self.asked.append((messages[0]["content"][1]["text"], task, episode))
        return Answer(self._text)

    async def judge(self, **outcome: Any) -> None:
        self.said.append(outcome)


async def play(page: ScriptedPage, agents: ScriptedAgents) -> Played:
    async def run(work: Callable[[], Any]) -> Any:
        return work()

    def visit(family: Family) -> Any:
        assert family == TWO_CLICKS
        return page

    stand_in: Any = agents
    return await Player(stand_in, run, visit).play(LiveTask(ALL, TWO_CLICKS.name, 7))


async def test_an_episode_is_played_until_the_page_ends_it() -> None:
    page, agents = ScriptedPage(needed=2, reward=1.0), ScriptedAgents(click_call(999, 0))
    played = await play(page, agents)
    episode = f"{TWO_CLICKS.name}-7"
    assert (page.seed, page.clicks) == (7, [(160.0, 0.0)] * 2)
    assert agents.asked == [("Click twice.", TWO_CLICKS.name, episode)] * 2
    assert agents.said == [{"episode_id": episode, "reward": 1.0, "terminated": True}]
    assert (played.arms, played.reward, played.success) == (("somebody", "somebody"), 1.0, True)


async def test_one_that_does_not_end_is_given_up_after_a_click_too_many() -> None:
    page, agents = ScriptedPage(needed=99, reward=1.0), ScriptedAgents(click_call(1, 1))
    played = await play(page, agents)
    assert (len(page.clicks), played.success) == (3, False)
    assert agents.said[0]["reward"] == 0.0


async def test_an_answer_without_a_click_ends_it_unrewarded() -> None:
    page, agents = ScriptedPage(needed=2, reward=1.0), ScriptedAgents("I would rather not.")
    played = await play(page, agents)
    assert (page.clicks, len(played.arms), played.reward) == ([], 1, 0.0)
    assert agents.said[0]["reward"] == 0.0


async def test_a_page_that_punishes_is_no_reward_below_zero() -> None:
    agents = ScriptedAgents(click_call(1, 1))
    assert (await play(ScriptedPage(needed=1, reward=-1.0), agents)).reward == -1.0
    assert agents.said[0]["reward"] == 0.0


def test_live_episodes_tell_the_same_story_on_seeds_of_their_own() -> None:
    families = [*NEWER, "click-tab", "count-sides"]
    todo = tasks(families, 80, seed=3)
    assert [task.phase for task in todo] == [KNOWN] * 20 + [ALL] * 20 + [REGRESSED] * 40
    assert not {task.family for task in todo[:20]} & set(NEWER)
    assert {task.family for task in todo[40:]} == set(families)
    assert len({task.seed for task in todo}) == 80
    assert min(task.seed for task in todo) >= 2_000_000
    assert tasks(families, 80, seed=3) == todo
    assert fresh({ALL: (["a", "b"], 3)}, 1) != fresh({ALL: (["a", "b"], 3)}, 2)


def test_without_a_browser_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "find_spec", lambda _: None)
    with pytest.raises(NoBrowser, match="needs selenium and miniwob: `make demo ARGS=--live` installs them"):
        live.find_browser()
    monkeypatch.setattr(live, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoBrowser, match="there is no chromium"):
        live.find_browser()
