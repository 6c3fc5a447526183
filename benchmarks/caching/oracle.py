"""The best that anybody could do who knew how good every arm is for every family, and the whole trace.

Exact dynamic programming over what is resident. A request is served by a resident arm or the base, or by one that is
brought in for its price in place of just enough others; nothing else can pay, since paying later costs the same.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from policies.caching.plan import Stock
from policies.checks import Array, Rows


class Moves(NamedTuple):
    """Every state's page-ins, sorted by state: from `first[s]` on, `arm` comes in and the state becomes `after`."""

    held: Array
    first: Rows
    arm: Rows
    after: Rows


class Best(NamedTuple):
    """The arms [n] that serve, as columns of the rates, and what page-ins cost altogether."""

    arms: Rows
    paid: float


def oracle(rates: Array, families: Rows, stock: Mapping[str, Stock], room: float) -> Best:
    """Serve requests of `families` [n], whose mean rewards are rates [F,1+A], base first and then the stock's order.

    Adapters that another one beats or equals for every family at no larger size and price are not looked at.
    """
    names = list(stock)
    useful = _undominated(rates, [stock[name] for name in names])
    sizes, prices = (np.array([getattr(stock[names[k]], part) for k in useful]) for part in ("size", "price"))
    values = rates[:, [0, *(1 + k for k in useful)]]
    moves = _moves(sizes, room)
    stay = np.where(moves.held, values[:, np.newaxis, :], -np.inf)  # [F, states, 1 + useful]
    resting, resting_arm = stay.max(axis=2), stay.argmax(axis=2)
    gains = (values[:, 1:] - prices)[:, moves.arm]
    ahead = np.zeros((len(families) + 1, len(moves.held)))
    filled = np.flatnonzero(np.diff(moves.first))
    for t in range(len(families) - 1, -1, -1):
        ahead[t] = resting[families[t]] + ahead[t + 1]
        offers = np.maximum.reduceat(gains[families[t]] + ahead[t + 1][moves.after], moves.first[filled])
        ahead[t, filled] = np.maximum(ahead[t, filled], offers)
    columns, state, paid, arms = [0, *(1 + k for k in useful)], 0, 0.0, []
    for t, family in enumerate(families.tolist()):
        mine = slice(moves.first[state], moves.first[state + 1])
        offers = gains[family, mine] + ahead[t + 1][moves.after[mine]]
        if offers.max(initial=-np.inf) <= resting[family, state] + ahead[t + 1, state] + 1e-12:
            arms.append(columns[resting_arm[family, state]])
            continue
        move = mine.start + int(offers.argmax())
        arms.append(columns[1 + moves.arm[move]])
        paid += prices[moves.arm[move]]
        state = moves.after[move]
    return Best(np.array(arms), paid)


def _undominated(rates: Array, stock: Sequence[Stock]) -> list[int]:
    """Adapters that no other one beats or equals for every family at no larger size and price."""
    kept = []
    for k, mine in enumerate(stock):
        beaten = any(
            other != k
            and (rates[:, 1 + other] >= rates[:, 1 + k]).all()
            and its.size <= mine.size
            and its.price <= mine.price
            and (other < k or (rates[:, 1 + other] > rates[:, 1 + k]).any() or its != mine)
            for other, its in enumerate(stock)
        )
        if not beaten:
            kept.append(k)
    return kept


def _moves(sizes: Array, room: float) -> Moves:
    """All sets that fit, the empty one first, and what may replace what in each."""
    count, sets = len(sizes), list[tuple[int, ...]]()
    for size in range(count + 1):
        fitting = [each for each in combinations(range(count), size) if sizes[list(each)].sum() <= room]
        if not fitting:
            break
        sets += fitting
    place = {each: s for s, each in enumerate(sets)}
    first, arm, after = [0], list[int](), list[int]()
    for state in sets:
        for k in set(range(count)) - set(state):
            for rest in _makes_room(state, sizes, room - sizes[k]):
                arm.append(k)
                after.append(place[tuple(sorted((*rest, k)))])
        first.append(len(arm))
    held = np.array([[True, *(k in each for k in range(count))] for each in sets])
    return Moves(held, np.array(first), np.array(arm), np.array(after))


def _makes_room(state: tuple[int, ...], sizes: Array, left: float) -> list[tuple[int, ...]]:
    """The largest parts of a state that leave room."""
    for size in range(len(state), -1, -1):
        fitting = [each for each in combinations(state, size) if sizes[list(each)].sum() <= left]
        if fitting:
            return fitting
    return []
