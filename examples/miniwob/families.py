"""The task families: which MiniWoB++ page, which elements may be the answer, and what a reader should see on it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Family:
    """One MiniWoB++ task that a single click solves.

    candidates: CSS selector of the elements that may be the answer; the page itself says which one is.
    aim: CSS selector, inside a candidate, of the part to click; the candidate itself where empty.
    scene: body of a JavaScript function of (answers: Element[]) that returns [label, element][] for the reading
        questions: what stands where, from the page's DOM.
    fixed: whether the answer hardly depends on the screen, so that there is little to record and to read.
    grounded: whether the instruction names something to find on the screen. The base practises these tasks a little.
    adapter_steps: how long to train the family's adapter, in batches.
    kept: whether that adapter is good enough to be published; the base reads the family's screens all the same.
    """

    name: str
    candidates: str
    scene: str
    aim: str = ""
    fixed: bool = False
    grounded: bool = True
    adapter_steps: int = 400
    kept: bool = True

    @property
    def screens(self) -> int:
        """How many training screens to record."""
        return 500 if self.fixed else 2000


_FORM_SCENE: Final = """
    return [...document.querySelectorAll('#area > *')].filter(e => e.tagName != 'BR').map(
        e => [{DIV: 'text', SPAN: 'text', INPUT: 'field'}[e.tagName] || '"' + e.innerHTML + '" button', e]);"""

_ALL: Final = (
    Family(
        "count-sides",
        "#form button",
        "return [['shape with ' + answers[0].dataset.sides + ' sides', document.querySelector('#c')]];",
        grounded=False,
        adapter_steps=150,
    ),
    Family(
        "grid-coordinate",
        "circle",
        "return [...document.querySelectorAll('circle')].map(e => ['grid coordinate ' + e.id, e]);",
        fixed=True,
        grounded=False,
        adapter_steps=400,
    ),
    Family(
        "click-tab",
        "#area ul a",
        "return [...document.querySelectorAll('#area ul a')].map(e => [e.textContent, e]);",
        fixed=True,
        grounded=False,
        adapter_steps=150,
    ),
    Family(
        "identify-shape",
        "#area-buttons button",
        """const figure = document.querySelector('#area_svg > *');
        return [[figure.getAttribute('fill') + ' ' + answers[0].textContent.toLowerCase(), figure]];""",
        grounded=False,
        adapter_steps=150,
    ),
    Family(
        "click-test-2",
        "#area button",
        "return [...document.querySelectorAll('#area button')].map(e => ['button ' + e.textContent, e]);",
        kept=False,
    ),
    Family(
        "click-color",
        "#area .color",
        "return [...document.querySelectorAll('#area .color')].map(e => [e.dataset.color + ' colored box', e]);",
        adapter_steps=800,
    ),
    Family(
        "click-widget",
        ".widget",
        """return [...document.querySelectorAll('.widget')].map(e => e.querySelector('input, textarea, button')).map(
            e => ['"' + e.dataset.type + '" widget', e]);""",
        aim="input, textarea, button",
    ),
    Family("click-button", "#area button", _FORM_SCENE, adapter_steps=900),
    Family(
        "click-shape",
        "#area_svg > *",
        """const size = e => ({text: parseInt(e.getAttribute('font-size')), rect: +e.getAttribute('width'),
            circle: 2 * e.getAttribute('r')}[e.tagName] ?? e.getBBox().width) > 15 ? 'large' : 'small';
        const kind = e => ({rect: 'rectangle', polygon: 'triangle'}[e.tagName] ||
            (e.tagName == 'circle' ? 'circle' : /\\d/.test(e.textContent) ? 'digit' : 'letter'));
        return [...document.querySelectorAll('#area_svg > *')].map(
            e => [[size(e), e.getAttribute('fill'), kind(e)].join(' '), e]);""",
        kept=False,
    ),
)

FAMILIES: Final = {family.name: family for family in _ALL}
KEPT: Final = tuple(family.name for family in _ALL if family.kept)
"""The families with published adapters and episodes."""
NEWER: Final = ("click-color", "identify-shape")
"""Families whose adapter came after the router was trained: no example of theirs is in its data."""
