"""What may become of an arm, and that the store applies it once, with its event."""

import asyncio

import pytest

from cluster.events import ArmFrozen, ArmRegistered, ArmRemoved, ArmRenamed
from cluster.roster import ArmEvent, ArmRecord, ArmRefused, UnknownArm
from cluster.store import Store

REGISTERED = ArmRegistered(time=1.0, arm="inbox", adapter_hash="v1")
FREEZE, UNFREEZE = (ArmFrozen(time=2.0, arm="inbox", frozen=frozen) for frozen in (True, False))
REMOVED, ABSENT = (ArmRemoved(time=3.0, arm="inbox", absent=absent) for absent in (False, True))


def rename(arm: str, to: str) -> ArmRenamed:
    return ArmRenamed(time=4.0, arm=arm, to=to)


async def apply(store: Store, *events: ArmEvent) -> list[bool]:
    return [await store.change_arm(event) for event in events]


async def test_a_change_is_written_once_with_its_event(store: Store) -> None:
    events: list[ArmEvent] = [REGISTERED, FREEZE, UNFREEZE, rename("inbox", "mail")]
    for event in events:
        assert await store.change_arm(event)
        if event != events[-1]:
            assert not await store.change_arm(event)
    assert [event for _, event in await store.event_range()] == events
    assert await store.roster() == {"mail": ArmRecord(serves="inbox", adapter_hash="v1", former=["inbox"])}
    assert await store.roster_version() == len(events)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "active"),
        ([FREEZE], "frozen"),
        ([FREEZE, UNFREEZE], "active"),
        ([FREEZE, ArmRegistered(time=9.0, arm="inbox", adapter_hash="v2")], "frozen"),
        ([REMOVED], "removed"),
        ([ABSENT], "absent"),
        ([ABSENT, REGISTERED], "active"),
        ([FREEZE, ABSENT, REGISTERED], "frozen"),
        ([FREEZE, ABSENT, REGISTERED, UNFREEZE], "active"),
        ([REMOVED, ABSENT], "removed"),
        ([FREEZE, REMOVED, REGISTERED], "active"),
    ],
)
async def test_states(store: Store, events: list[ArmEvent], state: str) -> None:
    await apply(store, REGISTERED, *events)
    assert (await store.roster())["inbox"].state == state


@pytest.mark.parametrize("event", [FREEZE, REMOVED, rename("inbox", "mail")])
async def test_there_must_be_such_an_arm(store: Store, event: ArmEvent) -> None:
    with pytest.raises(UnknownArm, match="inbox"):
        await store.change_arm(event)
    await apply(store, REGISTERED, REMOVED)
    if event != REMOVED:
        with pytest.raises(UnknownArm, match="inbox"):
            await store.change_arm(event)
    assert len(await store.event_range()) == 2


async def test_a_name_that_is_or_was_anothers_is_refused(store: Store) -> None:
    await apply(store, REGISTERED, ArmRegistered(time=1.0, arm="claims"), rename("inbox", "mail"))
    for event in (rename("mail", "claims"), rename("claims", "inbox"), REGISTERED):
        with pytest.raises(ArmRefused, match=r"'claims' is another arm|'inbox' was the name of 'mail'"):
            await store.change_arm(event)
    assert await store.change_arm(rename("mail", "inbox"))
    assert (await store.roster())["inbox"].former == ["inbox", "mail"]


async def test_changes_at_once_all_count(store: Store) -> None:
    names = [f"arm{i}" for i in range(12)]
    await asyncio.gather(*(store.change_arm(ArmRegistered(time=1.0, arm=name)) for name in names))
    assert sorted(await store.roster()) == sorted(names)
    results = await asyncio.gather(
        *(store.change_arm(rename("arm0", f"new{i}")) for i in range(5)), return_exceptions=True
    )
    assert sum(result is True for result in results) == 1
    assert sum(isinstance(result, UnknownArm) for result in results) == 4
    assert len(await store.event_range()) == 13
