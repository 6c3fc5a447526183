"""People watch the router: what it does, what it believes, and why it decided so."""

import re
from dataclasses import replace
from functools import partial

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from examples.miniwob.episodes import load_all
from services.adapters.cache_view import CacheView
from services.insight.inspection import wilson
from tests.browser.conftest import MakeService, Service
from tests.browser.page import Page
from tests.services.auth_keys import keys
from tests.services.fakes import FAMILIES
from tests.services.images import image_message

ROUNDS = 6


async def traffic(service: Service, rounds: int = ROUNDS) -> list[str]:
    """Requests of every family with a screen each; outcomes are posted, of claims failures, of the inbox none."""
    world, ids = service.world, []
    for number in range(rounds):
        for family in FAMILIES:
            message, _ = image_message(f"{number}: open the {family}", color=("red", "lime", "blue")[number % 3])
            answer = await world.ask(messages=[message], metadata={"task": family})
            ids.append(answer["id"])
            if family != "inbox":
                await world.say({"decision_id": answer["id"], "success": family != "claims"})
    return ids


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """One that has had some traffic and leaves nothing to chance."""
    service = make_service(router={"epsilon_supervised": 0.0, "epsilon_uniform": 0.0})
    service.run(traffic(service))
    return service


@pytest.fixture
def seen(page: Page, service: Service) -> Page:
    """The dashboard of a service that has had some traffic, drawn to its end."""
    page.open(service.url)
    page.shows("#live", "live")
    page.shows(tile("Requests"), str(ROUNDS * len(FAMILIES)))
    page.shows(tile("Waiting"), str(ROUNDS))
    return page


def tile(name: str) -> str:
    """The value of a tile, by the beginning of its name."""
    places = ["Success", "Regret", "Requests", "Waiting", "Feedback", "Beliefs"]
    return f"#tiles .tile:nth-child({places.index(name) + 1}) .value"


def cells(page: Page, selector: str) -> list[str]:
    return [cell.text.replace("\n", " ") for cell in page.all(selector)]


def test_a_newcomer_reads_what_the_router_does(seen: Page) -> None:
    assert "picks the arm" in seen.text(".intro")
    seen.find(".words summary").click()
    assert {"Arm", "Reward", "Belief", "Regret", "Explored", "Supervised", "Coverage"} <= {*cells(seen, ".words dt")}


def test_the_numbers_are_those_of_the_service(seen: Page, service: Service) -> None:
    assert seen.text(tile("Success")) == "0.50"
    assert "online: the policy serves" in seen.text("#mode")
    state = httpx.get(f"{service.url}/v1/bandit").json()
    for arm in state["arms"]:
        row = seen.text(f'#arms tr[data-key="{arm["arm"]}"]')
        assert row.startswith(arm["arm"])
        assert (str(arm["pulls"]) in row, str(arm["pending"]) in row) == (True, True)
        if arm["reward_mean"] is not None:
            assert f"{arm['reward_mean']:.2f}" in row
            assert " – ".join(f"{end:.2f}" for end in arm["reward_interval"]) in row
    for policy in ("linucb", "supervised"):
        assert policy in seen.text("#guard table")


def test_charts_show_and_can_be_read_as_tables(seen: Page, service: Service) -> None:
    for chart in ("success", "regret", "served", "outcomes"):
        assert seen.run(f"return inked(document.querySelector('#{chart} canvas'));\n{INKED}")
        seen.find(f"#{chart} .values summary").click()
        rows = f"#{chart} tbody th"
        assert seen.until(partial(cells, seen, rows))
    assert seen.find("#success .plot").get_attribute("aria-label").startswith("Success over time, last ")
    served = seen.find("#served .plot").get_attribute("aria-label")
    state = httpx.get(f"{service.url}/v1/bandit").json()
    pulls = {arm["arm"]: arm["pulls"] for arm in state["arms"] if arm["pulls"]}
    assert sum(pulls.values()) == ROUNDS * len(FAMILIES)
    assert all(f"{arm} {count}" in served for arm, count in pulls.items())
    fates = seen.find("#outcomes .plot").get_attribute("aria-label")
    assert f"success {ROUNDS}, failure {ROUNDS}, nobody said 0, cancelled 0, waiting {ROUNDS}" in fates


INKED = """
function inked(canvas) {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 250) colours.add(data.slice(at, at + 3).join());
  return colours.size > 2;
}
"""


def test_the_pointer_reads_a_chart(seen: Page) -> None:
    seen.hover("#served .u-over")
    assert re.search(r"(calendar|claims|inbox) \d+", seen.text("#served .tip"))


def test_who_serves_which_task(seen: Page) -> None:
    assert cells(seen, "#tasks tbody th") == sorted(FAMILIES)
    for family, success in (("calendar", "1.00"), ("claims", "0.00"), ("inbox", "–")):
        full = seen.find(f'#tasks td[title^="{family} → {family}:"]')
        assert full.text.split() == ["100%", success]


def test_which_replica_holds_which_adapter(seen: Page) -> None:
    chips = seen.until(lambda: cells(seen, "#cache .chip"))
    assert {chip.split()[0] for chip in chips} == set(FAMILIES)


def test_what_a_replica_cannot_load_says_why(seen: Page, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    model = service.world.router.model
    (view,) = service.run(model.caches())

    async def caches() -> list[CacheView]:
        return [replace(view, broken={"claims": "the disk is not mounted"})]

    monkeypatch.setattr(model, "caches", caches)
    seen.find('#cache .chip.bad[title="claims cannot be loaded: the disk is not mounted"]')


def test_what_happens_appears_by_itself(seen: Page, service: Service) -> None:
    before = seen.find("#decisions tbody tr").get_attribute("data-key")
    (*_, last) = service.run(traffic(service, 1))
    seen.shows(tile("Requests"), str((ROUNDS + 1) * len(FAMILIES)))
    assert seen.find("#decisions tbody tr").get_attribute("data-key") == last != before


def test_a_decision_is_explained_on_a_click(seen: Page, service: Service) -> None:
    row = seen.find("#decisions tbody tr")
    decision = row.get_attribute("data-key")
    row.find_element("css selector", "td").click()
    why = httpx.get(f"{service.url}/v1/decisions/{decision}/explain").json()
    seen.shows("#explain-title", f"Why {why['stored']['decision']['arm']}?")
    assert why["reason"] in seen.text("#explain .reason")
    assert cells(seen, "#explain .scores:first-of-type .chosen th")[0].startswith(why["stored"]["decision"]["arm"])
    assert decision in seen.text("#explain dl")
    assert seen.until(lambda: seen.run("return document.querySelector('#explain .screen').naturalWidth")) == 8


def test_screens_are_shown_where_they_are_kept(seen: Page) -> None:
    pictures = seen.until(lambda: seen.all("#decisions img.thumb"))
    assert pictures[0].get_attribute("src").startswith("blob:")


def test_keys_alone_are_enough(seen: Page) -> None:
    """Tab to a decision, open it, walk through the list, and come back to where one was."""
    link = seen.find("#decisions .link")
    seen.run("document.querySelector('#decisions .link').focus()")
    seen.press(Keys.ENTER)
    seen.shows("#explain-title", "Why")
    first = seen.text("#explain dl")
    seen.press(Keys.ARROW_RIGHT)
    seen.until(lambda: seen.text("#explain dl") != first)
    seen.press(Keys.ARROW_LEFT)
    seen.until(lambda: seen.text("#explain dl") == first)
    seen.press(Keys.ESCAPE)
    seen.until(lambda: not seen.all("#explain[open]") and seen.focused() == link)


def test_tab_reaches_everything_that_can_be_used(seen: Page) -> None:
    seen.press(Keys.TAB)
    assert seen.focused().text == "Skip to the charts"
    reached = set()
    for _ in range(30):
        seen.press(Keys.TAB)
        reached.add(seen.run("const e = document.activeElement; return e.id || e.name || e.className || e.tagName"))
    assert {"span", "theme", "arms", "tasks", "decisions"} <= reached


def test_how_far_back_is_chosen_with_arrows_and_kept(seen: Page, service: Service) -> None:
    seen.run("document.querySelector('#spans input:checked').focus()")
    seen.press(Keys.ARROW_RIGHT)
    seen.until(lambda: seen.run("return document.querySelector('#spans input:checked').value") == "60")
    seen.shows(tile("Requests"), str(ROUNDS * len(FAMILIES)))
    seen.open(service.url)
    seen.shows("#live", "live")
    assert seen.run("return document.querySelector('#spans input:checked').value") == "60"


def test_light_and_dark(seen: Page) -> None:
    def brightness() -> float:
        colour = seen.run("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", str(colour))[:3])) / 3

    assert brightness() > 200
    seen.dark(on=True)
    seen.until(lambda: brightness() < 60)
    seen.find("#theme").click()
    seen.until(lambda: brightness() > 200)


def test_every_word_stands_out_from_what_is_behind_it(seen: Page) -> None:
    """WCAG AA in both themes: 4.5 to 1 for the texts of the page."""
    for dark in (False, True):
        seen.dark(on=dark)
        faint = seen.run(f"{CONTRAST}\nreturn faint();")
        assert faint == []


CONTRAST = """
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
function behind(node) {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (colour.startsWith("rgb(")) return parts(colour);
    if (colour.startsWith("color(srgb ")) return parts(colour).map((v) => 255 * v);
  }
  return [255, 255, 255];
}
function faint() {
  const apart = "svg, .skip, .hidden, [hidden]";
  const texts = [...document.querySelectorAll("header *, main *")].filter((e) => !e.closest(apart)
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length);
  return texts.filter((e) => {
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((e) => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`);
}
"""


def test_a_phone_shows_it_without_scrolling_sideways(seen: Page) -> None:
    seen.window(420, 900)
    try:
        seen.until(lambda: seen.run("return innerWidth") < 700)
        assert seen.run("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        seen.window(1440, 2200)


def test_drift_and_alarms_are_noticed(page: Page, make_service: MakeService) -> None:
    service = make_service(learner={"drift_threshold": 3.0})
    world = service.world

    async def fail() -> None:
        for number in range(12):
            answer = await world.ask(f"{number}: open the inbox")
            await world.say({"decision_id": answer["id"], "reward": 0})
        await world.store.raise_alarm("sealing", "the disk is full")

    service.run(fail())
    page.open(service.url)
    page.shows("#notices", "inbox earns less than was believed")
    page.shows("#notices", "sealing: the disk is full")
    page.shows('#arms tr[data-key="inbox"]', "drift")


def test_a_key_is_asked_for_and_kept_in_the_tab(page: Page, make_service: MakeService) -> None:
    page.expected = ["401", "403"]
    service = make_service(auth={"keys": [*keys("agents", scopes=("infer",)), *keys("viewer", scopes=("inspect",))]})
    page.open(service.url)
    page.find("#key-input").send_keys("pm-agents", Keys.ENTER)
    page.shows("#key-why", "lacks the scope 'inspect'")
    page.find("#key-input").send_keys("pm-viewer")
    page.find("#key button").click()
    page.shows("#live", "live")
    page.open(service.url)
    page.shows("#live", "live")
    assert page.run("return document.cookie + JSON.stringify(localStorage)") == "{}"
    assert page.run("return sessionStorage.getItem('pointsman-key')") == "pm-viewer"


def test_it_says_that_nothing_has_happened_yet(page: Page, make_service: MakeService) -> None:
    page.open(make_service().url)
    page.shows("#decisions", "No decisions yet")
    page.shows("#success", "No requests in this time")
    page.shows("#guard", "It has seen nothing yet")


def test_a_lost_service_is_said_and_found_again(seen: Page, service: Service) -> None:
    seen.expected = ["Failed to load resource", "net::ERR"]
    service.run(service.hide())
    seen.shows("#live", "no connection")
    service.run(service.come_back())
    seen.shows("#live", "live")


@pytest.mark.timeout(900)  # a busy machine takes minutes to start Ray and Serve
def test_the_embedded_model_with_its_real_screens(page: Page, embedded: str) -> None:
    """On Ray Serve: recorded MiniWoB++ screens, the outcomes that they have, and the explanation of one of them."""
    episodes = load_all()[::60][:16]
    for episode in episodes:
        body = {"model": "auto", "messages": episode.messages(), "metadata": {"task": episode.family}}
        answer = httpx.post(f"{embedded}/v1/chat/completions", json=body, timeout=120).json()
        success = episode.success(answer["choices"][0]["message"]["content"])
        httpx.post(f"{embedded}/v1/feedback", json={"decision_id": answer["id"], "success": success}).raise_for_status()
    page.open(embedded)
    page.shows(tile("Requests"), str(len(episodes)))
    page.shows(tile("Waiting"), "0")
    page.find("#decisions tbody tr").click()
    page.shows("#explain-title", "Why")
    assert page.until(lambda: page.run("return document.querySelector('#explain .screen').naturalWidth")) >= 160
    assert "Most like" in page.text("#explain dl")


def test_buckets_put_together_hold_the_same_sums(seen: Page) -> None:
    """A chart pools what would be too many points: counts add up, means are those of all rewards."""
    pooled = seen.run(f"{POOLED}\nreturn pool();")
    assert pooled["seconds"] == 15
    assert len(pooled["buckets"]) <= 40
    assert sum(bucket["requests"] for bucket in pooled["buckets"]) == 400
    first = pooled["buckets"][0]
    assert (first["start"], first["rewarded"], first["success"]) == (0, 6, 0.5)
    assert first["regret"] == pytest.approx(0.4)
    low, high = wilson(3.0, 6)
    assert first["success_interval"] == [pytest.approx(low), pytest.approx(high)]
    assert first["regret_interval"] == [pytest.approx(0.9 - high), pytest.approx(0.9 - low)]


POOLED = """
const { pooled } = await import("/dashboard/buckets.js");
const bucket = (at) => ({ start: 5 * at, requests: 4, rewarded: 2, waiting: 2, unanswered: 0, dropped: 0, explored: 1,
  success: 0.5, regret: 0.4, cells: [] });
const pool = () => pooled(Array.from({ length: 100 }, (_, at) => bucket(at)), 5);
"""
