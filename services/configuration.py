"""From settings to what the parts are configured with; most of them know nothing of settings."""

from pathlib import Path
from typing import Any

from cluster.archive import Archive
from cluster.settings import Settings
from cluster.store import Store
from policies import Policy, PolicyConfig, caching, create
from policies.caching.epochs import EpochConfig
from policies.context import ContextMap
from policies.guard import GuardConfig
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior
from services.adapters.cache import AdapterCache
from services.adapters.registry import Registry
from services.adapters.shelf import Shelf
from services.adapters.tiers import PAGE
from services.engine.base import Engine
from services.engine.feature_spec import FeatureSpec, weights_hash
from services.learning.rewards import FeedbackRules
from services.learning.sealing import SealingConfig
from services.learning.watch import WatchConfig

_LEAST_SHARE = 1e-3


def policy_config(settings: Settings) -> PolicyConfig:
    """What policies need of the settings."""
    names = ["alpha", "epsilon_supervised", "epsilon_uniform", "cost_per_ms", "burn_in", "fixed_arm", "episode_margin"]
    names += ["all_widths", "top_widths", "neighbours", "samples"]
    return PolicyConfig(**{name: getattr(settings.router, name) for name in names})


def learning_config(settings: Settings) -> LearningConfig:
    """What the posterior needs of the settings."""
    names = ["discount", "ridge", "prior_weight", "prior_wrong", "new_arm_weight", "new_arm_mean", "version_carry"]
    names += ["credit", "credit_discount"]
    names += ["drift_threshold", "drift_slack", "drift_trust", "drift_carry"]
    return LearningConfig(**{name: getattr(settings.learner, name) for name in names})


def feature_spec(settings: Settings) -> FeatureSpec:
    """How features are made, which a trained router must have been trained on."""
    model = settings.model
    return FeatureSpec(weights_hash(model.path), model.dtype, model.encode_blocks)


def make_registry(settings: Settings) -> Registry:
    """What there is to serve. Where only one adapter may serve at a time there are no mixtures."""
    most = settings.model.max_mixture
    sizes = {"top2": 2, "soft": most}
    mixtures: dict[str, int] = {name: sizes[name] for name in settings.router.mixtures if most > 1}
    room = min(settings.model.lora_pages, settings.cache.device_rows // PAGE)
    return Registry(settings.model.adapters, mixtures, make_shelf(settings), room)


def make_shelf(settings: Settings) -> Shelf:
    """Where adapters may come from."""
    cache = settings.cache
    return Shelf([settings.model.adapters, *cache.roots], cache.hub_owners, cache.largest_bytes)


def base_names(settings: Settings) -> frozenset[str]:
    """What an adapter may call the model that it was trained on, without the directories or the owner before it."""
    names = settings.cache.bases | {settings.model.path, settings.model.public_name}
    return frozenset(Path(name).name for name in names)


def watch_config(settings: Settings) -> WatchConfig:
    """Which policies the Learner watches, and what the guard promises."""
    router, guard = settings.router, settings.guard
    own = 1 - router.epsilon_supervised - router.epsilon_uniform
    bounds = 1 / own, 1 / max(router.epsilon_supervised, _LEAST_SHARE)
    return WatchConfig(
        router.policy, router.shadow_policies, policy_config(settings), GuardConfig(guard.delta, guard.margin, *bounds)
    )


def make_policy(settings: Settings, contexts: ContextMap, name: str | None = None) -> Policy:
    """The policy that serves, or the one of that name, over a posterior without arms.

    ValueError: the router lacks what the policy needs.
    """
    posterior = Posterior(Prior(contexts.statistics, learning_config(settings)))
    return create(name or settings.router.policy, posterior, policy_config(settings), contexts.supervision)


def feedback_rules(settings: Settings) -> FeedbackRules:
    """What the fold needs of the settings besides."""
    learner = settings.learner
    return FeedbackRules(learner.learn_late, learner.timeout_reward, learner.key_cap)


def sealing_config(settings: Settings) -> SealingConfig:
    """How events leave Redis."""
    store = settings.store
    return SealingConfig(hot_s=store.hot_s, segment=store.segment, keep_s=store.keep_s)


def make_cache(settings: Settings, engine: Engine) -> AdapterCache[Any]:
    """The cache of one engine's adapters. Belongs to the event loop that uses it first."""
    policy = caching.create(settings.cache.policy)
    return AdapterCache(engine.device, make_shelf(settings).read, policy, host_bytes=settings.cache.host_bytes)


def epoch_config(settings: Settings) -> EpochConfig:
    """When plans of the cache are made, and from what."""
    cache = settings.cache
    first = cache.epoch if cache.policy == "polar_plus" else cache.epoch_longest
    return EpochConfig(first, cache.epoch_longest, cache.plan_window, cache.plan_horizon, cache.plan_caution)


def make_store(settings: Settings) -> Store:
    """The store that the settings name. Raises ValueError without a URL: an embedded server must be running."""
    url = settings.store.external_url
    if url is None:
        raise ValueError("store.url and REDIS_URL are empty, expected a Redis URL (`pointsman serve` starts a server)")
    return Store(
        url,
        settings.store.prefix,
        reward_window_s=settings.learner.reward_window_s,
        retention_s=settings.store.retention_s,
        archive=Archive(settings.store.archive_dir),
    )
