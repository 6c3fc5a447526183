"""What the deployments run, put together from settings; nothing of it is connected yet."""

import time
from collections.abc import Callable

from cluster.settings import Settings
from policies.caching.epochs import Planner
from policies.context import ContextMap
from services.caching.planning import PlanMaker, Prices
from services.catalogue.arms import Arms
from services.configuration import (
    epoch_config,
    feedback_rules,
    learning_config,
    make_registry,
    make_store,
    sealing_config,
    watch_config,
)
from services.learning.learner import Learner
from services.learning.sealing import SealingConfig
from services.model.base import Model
from services.routing.journal import Journal
from services.routing.router import Router
from services.routing.screens import Screens
from services.routing.switching import Routers


def make_router(settings: Settings, model: Model, configured: ContextMap | None = None) -> Router:
    """The Router in front of a model. The `configured` trained router is that of the settings, unless it is given."""
    arms, store = Arms(make_registry(settings)), make_store(settings)
    routers = Routers(settings, store, arms, configured or ContextMap.load(settings.router.path))
    return Router(
        settings.router,
        base=settings.model.public_name,
        model=model,
        store=store,
        arms=arms,
        routers=routers,
        screens=Screens(store, settings.store.keep_screens),
        journal=Journal(store, bound=settings.store.journal, patience_s=settings.store.patience_s),
    )


def make_learner(
    settings: Settings, *, sealing: SealingConfig | None = None, clock: Callable[[], float] = time.time
) -> Learner:
    """The one writer of the posterior. Sealing is that of the settings, unless another one is given."""
    return Learner(
        make_store(settings),
        ContextMap.load(settings.router.path),
        learning_config(settings),
        feedback_rules(settings),
        batch=settings.learner.batch,
        pace_ms=settings.learner.pace_ms,
        watching=watch_config(settings),
        sealing=sealing or sealing_config(settings),
        clock=clock,
    )


def make_plans(settings: Settings) -> PlanMaker:
    """Who plans what the replicas keep."""
    arms, store = Arms(make_registry(settings)), make_store(settings)
    routers = Routers(settings, store, arms, ContextMap.load(settings.router.path))
    prices = Prices(settings.router.cost_per_ms, settings.router.page_in_ms)
    epochs = epoch_config(settings)
    return PlanMaker(store, arms, routers, lambda: Planner(epochs), prices, pace_s=settings.cache.plan_s)
