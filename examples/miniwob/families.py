"""The task families: which MiniWoB++ page, which elements may be the answer, and what a reader should see on it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Step:
    """One click of a task. What is JavaScript is the body of a function.

    candidates: CSS selector of the elements that may be the answer. Where the task is a single click the page itself
        says which one is; of several clicks every candidate is right, since no page judges half a task.
    scene: of (answers: Element[]), returns [label, element][] for the reading questions: what stands where.
    aim: CSS selector, inside a candidate, of the part to click; the candidate itself where empty.
    counts: of (element, x, y), in pixels of the page: whether a click there is right, beyond hitting the element.
    """

    candidates: str
    scene: str
    aim: str = ""
    counts: str = "return true;"


@dataclass(frozen=True)
class Family:
    """One MiniWoB++ task that clicks solve.

    steps: its clicks in order, each on the screen that the ones before it left.
    goal: the raw reward of the page that counts as success.
    screens: how many training seeds to record; each gives a screen a step.
    fixed: whether the answer hardly depends on the screen, so that there is little to read.
    practised: the screens on which the base practises the task: enough for the format, too few to be good at it.
    kept: whether its adapter is good enough to be published; the base reads the family's screens all the same.
    """

    name: str
    steps: tuple[Step, ...]
    goal: float = 1.0
    screens: int = 1000
    fixed: bool = False
    practised: int = 64
    kept: bool = True


_FORM_SCENE: Final = """
    return [...document.querySelectorAll('#area > *')].filter(e => e.tagName != 'BR').map(
        e => [{DIV: 'text', SPAN: 'text', INPUT: 'field'}[e.tagName] || '"' + e.innerHTML + '" button', e]);"""
_SECTION_SCENE: Final = """
    const text = document.querySelector('.ui-accordion-content');
    return [['"' + document.querySelector('#area h3').textContent + '" button', document.querySelector('#area h3')],
        ...(text.offsetHeight ? [['text', text]] : []),
        ['"Submit" button', document.querySelector('#subbtn')]];"""
_CIRCLE_SCENE: Final = """
    return [['circle', document.querySelector('.black-circle')],
        ...[...document.querySelectorAll('#blue-circle')].map(e => ['blue circle', e]),
        ['"Submit" button', document.querySelector('#subbtn')]];"""
_NEAR_CENTRE: Final = (
    "return Math.hypot(x - e.getAttribute('cx'), y - 50 - e.getAttribute('cy')) < .35 * e.getAttribute('r');"
)

_ALL: Final = (
    Family(
        "count-sides",
        (
            Step(
                "#form button",
                "return [['shape with ' + answers[0].dataset.sides + ' sides', document.querySelector('#c')]];",
            ),
        ),
        practised=4,
    ),
    Family(
        "grid-coordinate",
        (
            Step(
                "circle",
                "return [...document.querySelectorAll('circle')].map(e => ['grid coordinate ' + e.id, e]);",
            ),
        ),
        screens=500,
        fixed=True,
        practised=32,
        kept=False,
    ),
    Family(
        "click-tab",
        (
            Step(
                "#area ul a",
                "return [...document.querySelectorAll('#area ul a')].map(e => [e.textContent, e]);",
            ),
        ),
        screens=500,
        fixed=True,
        practised=2,
    ),
    Family(
        "identify-shape",
        (
            Step(
                "#area-buttons button",
                """const figure = document.querySelector('#area_svg > *');
                return [[figure.getAttribute('fill') + ' ' + answers[0].textContent.toLowerCase(), figure]];""",
            ),
        ),
        practised=8,
    ),
    Family(
        "click-dialog",
        (
            Step(
                "button.ui-button",
                """return [['text', document.querySelector('#dialog')], ['"x" button', answers[0]]];""",
            ),
        ),
        practised=8,
    ),
    Family(
        "click-collapsible",
        (Step("#area h3", _SECTION_SCENE), Step("#subbtn", _SECTION_SCENE)),
        practised=4,
    ),
    Family(
        "circle-center",
        (Step(".black-circle", _CIRCLE_SCENE, counts=_NEAR_CENTRE), Step("#subbtn", _CIRCLE_SCENE)),
        goal=0.6,
        practised=8,
    ),
    Family(
        "click-color",
        (
            Step(
                "#area .color",
                """return [...document.querySelectorAll('#area .color')].map(
                    e => [e.dataset.color + ' colored box', e]);""",
            ),
        ),
        screens=1500,
    ),
    Family(
        "click-widget",
        (
            Step(
                ".widget",
                """return [...document.querySelectorAll('.widget')].map(
                    e => e.querySelector('input, textarea, button')).map(
                    e => ['"' + e.dataset.type + '" widget', e]);""",
                aim="input, textarea, button",
            ),
        ),
        screens=1500,
    ),
    Family("click-button", (Step("#area button", _FORM_SCENE),), screens=3000, kept=False),
)

FAMILIES: Final = {family.name: family for family in _ALL}
KEPT: Final = tuple(name for name, family in FAMILIES.items() if family.kept)
"""The families with published adapters and episodes."""
NEWER: Final = ("click-color", "identify-shape")
"""Families whose adapters came after the router was trained: no example of theirs is in its data."""
