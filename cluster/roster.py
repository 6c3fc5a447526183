"""Which arms there are, what each serves, and what may become of one. Pure: the store applies what is said here."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from cluster.events import ArmFrozen, ArmRegistered, ArmRemoved, ArmRenamed, Record

State = Literal["active", "frozen", "removed", "absent"]


class ArmRecord(Record):
    """One arm. `serves` is what it turns on: `base`, an adapter, or a mixture template.

    state: active; frozen (keeps what it learned and serves who asks for it by name, but is routed to no more); removed
    by an operator (not even that); absent (what it serves is not there; `frozen` remembers meanwhile that it was). An
    absent arm with a `reason` is back when that no longer holds.
    `former` are its earlier names, oldest first: the trained router knows it by the first. `like` are the arms that it
    was expected to earn as when it was new.
    """

    serves: str
    adapter_hash: str | None = None
    state: State = "active"
    former: list[str] = Field(default_factory=list)
    like: list[str] = Field(default_factory=list)
    frozen: bool = False
    reason: str = ""

    @property
    def is_suspended(self) -> bool:
        """Whether it cannot serve for a reason that may pass."""
        return self.state == "absent" and self.reason != ""

    @property
    def is_there(self) -> bool:
        """Whether it can serve at all."""
        return self.state in ("active", "frozen")


Roster = Mapping[str, ArmRecord]
Changes = dict[str, ArmRecord | None]
ArmEvent = ArmRegistered | ArmRemoved | ArmFrozen | ArmRenamed


class UnknownArm(LookupError):
    """There is no such arm."""


class ArmRefused(ValueError):
    """What was asked of an arm cannot be; the message says why."""


def changes(roster: Roster, event: ArmEvent) -> Changes:
    """The records that the event changes (None: goes away); none if all is so already.

    Raises UnknownArm, or ArmRefused for a name that is or was another arm's.
    """
    match event:
        case ArmRegistered():
            return _registered(roster, event)
        case ArmRemoved():
            return _removed(roster, event)
        case ArmFrozen():
            state: State = "frozen" if event.frozen else "active"
            return _with(event.arm, _there(roster, event.arm), state=state)
        case ArmRenamed():
            return _renamed(roster, event)


def _registered(roster: Roster, event: ArmRegistered) -> Changes:
    _free(roster, event.arm, event.arm)
    known, serves = roster.get(event.arm), event.serves or event.arm
    if known and known.serves != serves:
        raise ArmRefused(f"{event.arm!r} serves {known.serves!r}, expected an arm of another name for {serves!r}")
    record = ArmRecord(
        serves=serves,
        adapter_hash=event.adapter_hash,
        state="frozen" if known and (known.frozen or known.state == "frozen") else "active",
        former=known.former if known else [],
        like=event.like or (known.like if known else []),
    )
    return {} if record == known else {event.arm: record}


def _removed(roster: Roster, event: ArmRemoved) -> Changes:
    known = roster.get(event.arm)
    if known is None:
        raise UnknownArm(event.arm)
    if not known.is_there and (event.absent or not known.is_suspended):
        return {}
    state: State = "absent" if event.absent else "removed"
    frozen = event.absent and known.state == "frozen"
    return {event.arm: known.model_copy(update={"state": state, "frozen": frozen, "reason": event.reason})}


def _renamed(roster: Roster, event: ArmRenamed) -> Changes:
    known = _there(roster, event.arm)
    if event.to in roster:
        raise ArmRefused(f"{event.to!r} is another arm, expected a name that is free")
    _free(roster, event.to, event.arm)
    return {event.arm: None, event.to: known.model_copy(update={"former": [*known.former, event.arm]})}


def _there(roster: Roster, arm: str) -> ArmRecord:
    known = roster.get(arm)
    if known is None or not known.is_there:
        raise UnknownArm(arm)
    return known


def _free(roster: Roster, name: str, arm: str) -> None:
    """Decisions of an arm's earlier names are under way: nobody else may be called so."""
    for other, record in roster.items():
        if other != arm and name in record.former:
            raise ArmRefused(f"{name!r} was the name of {other!r}, whose decisions are still under way")


def _with(arm: str, known: ArmRecord, *, state: State) -> Changes:
    return {} if known.state == state else {arm: known.model_copy(update={"state": state})}
