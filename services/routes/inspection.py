"""What the router believes, and what it decided."""

from typing import Annotated

from fastapi import FastAPI, Query

from cluster.settings import Settings
from cluster.store import StoredDecision
from services.edge.auth import Caller, needs
from services.edge.errors import ApiError, found
from services.insight import explanation, inspection
from services.insight.explanation import DecisionExplanation
from services.learning import verification
from services.routing.router import Router


def add(app: FastAPI, router: Router, settings: Settings) -> None:
    inspects = needs(settings, "inspect")

    @app.get("/v1/bandit", tags=["inspection"], dependencies=[inspects])
    async def bandit() -> inspection.BanditView:
        """What is known of every arm, and how fresh it is."""
        return await inspection.bandit(router)

    @app.get("/v1/bandit/arms/{arm}", tags=["inspection"], dependencies=[inspects])
    async def arm_state(arm: str) -> inspection.ArmView:
        """What is known of one arm."""
        views = {view.arm: view for view in (await inspection.bandit(router)).arms}
        return found(views.get(arm), "arm", arm)

    @app.get("/v1/bandit/verify", tags=["inspection"], dependencies=[inspects])
    async def bandit_verify(whole: bool = False) -> verification.Verification:
        """Fold the log from the last checkpoint, or from its beginning, and compare with the posterior in use."""
        try:
            return await verification.verify_apart(settings, router.decider.contexts, whole=whole)
        except verification.NotComparable as error:
            raise ApiError(409, str(error), code="not_comparable", retry_after_s=10) from None

    async def stored(decision_id: str, caller: Caller, field: str = "decision_id") -> StoredDecision:
        """A decision that the caller may see."""
        known = await router.store.decision(decision_id)
        return found(known if known and caller.sees(known.decision.tenant) else None, field, decision_id)

    @app.get("/v1/decisions", tags=["inspection"])
    async def decisions(
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: str | None = None,
        tenant: str | None = None,
        caller: Caller = inspects,
    ) -> list[inspection.DecisionView]:
        """The latest decisions, newest first; `before` is the id of a decision to continue from."""
        edge = (await stored(before, caller, "before")).stream_id if before else None
        if not caller.sees(tenant or caller.tenant):
            return []
        listed = await router.store.decisions(limit, edge, tenant or caller.tenant)
        return [inspection.DecisionView.of(one) for one in listed]

    @app.get("/v1/decisions/{decision_id}", tags=["inspection"])
    async def decision(decision_id: str, caller: Caller = inspects) -> inspection.DecisionView:
        """One decision and what became of it."""
        return inspection.DecisionView.of(await stored(decision_id, caller))

    @app.get("/v1/decisions/{decision_id}/explain", tags=["inspection"])
    async def explain(decision_id: str, caller: Caller = inspects) -> DecisionExplanation:
        """Why the decision was taken, what would be decided now, and what became of it."""
        return explanation.explain(router.decider, await stored(decision_id, caller))

    @app.get("/v1/episodes/{episode_id}", tags=["inspection"])
    async def episode(episode_id: str, caller: Caller = inspects) -> list[inspection.DecisionView]:
        """The decisions of an episode, in order."""
        members = found(await router.store.episode(caller.episode(episode_id)), "episode_id", episode_id)
        known = [await router.store.decision(member) for member in members]
        return [inspection.DecisionView.of(one) for one in known if one]
