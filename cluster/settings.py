"""Every setting of Pointsman, typed and documented.

A setting is read, strongest first, from the constructor, the environment (`POINTSMAN_<GROUP>__<NAME>`, for example
`POINTSMAN_SERVER__PORT=9000`), and the YAML file named by `POINTSMAN_CONFIG`. `docs/settings.md` lists them all.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from cluster.events import Mode

Scope = Literal["infer", "feedback", "inspect", "admin"]
PolicyName = Literal["linucb", "lints", "greedy", "mlp", "knn", "retrieval", "poly", "fixed"]
Template = Literal["top2", "soft"]
ResidencyName = Literal["lru", "lfu", "gdsf", "polar", "polar_plus"]
PLANNED: frozenset[ResidencyName] = frozenset({"polar", "polar_plus"})
"""Residency policies that follow the Learner's plan."""
Fraction = Annotated[float, Field(ge=0, le=1)]

CHECKOUT = Path(__file__).resolve().parent.parent
EMBEDDED_WORLD = CHECKOUT / "examples" / "miniwob" / "world"
TUNABLE: Mapping[str, frozenset[str]] = {  # what can change while the service runs, without a restart
    "router": frozenset({"alpha", "burn_in", "episode_margin", "cost_per_ms", "page_in_ms"}),
    "guard": frozenset({"fallback"}),
}


def _sha256_hex(digest: str) -> str:
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError("expected 64 lower-case hex digits (the SHA-256 of the key; `pointsman key` prints one)")
    return digest


class Group(BaseModel):
    """One group of settings: an unknown name is an error, and a value never changes after start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Group):
    """The HTTP edge."""

    host: str = Field("127.0.0.1", description="Address to listen on. Any address but loopback needs `auth.keys`.")
    port: int = Field(8000, ge=1, le=65535, description="TCP port to listen on.")
    routers: int = Field(1, ge=1, description="Router replicas (CPU only).")
    max_ongoing: int = Field(
        256, ge=1, description="Requests in flight per Router; beyond it new ones wait in the proxy."
    )
    max_queued: int = Field(
        256, ge=1, description="Requests that wait in each proxy; beyond it new ones get 503 with Retry-After at once."
    )
    request_timeout_s: float = Field(600, gt=0, description="Seconds until an unfinished request is cancelled.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ModelSettings(Group):
    """The hosted Qwen3-VL and its adapters."""

    path: str = Field(str(EMBEDDED_WORLD / "qwen3-vl-miniwob"), description="Directory or hub name of the checkpoint.")
    name: str = Field("", description="Public name of the base model; empty: the last part of `model.path`.")
    adapters: Path = Field(EMBEDDED_WORLD / "adapters", description="Directory with one PEFT LoRA per subdirectory.")
    replicas: int = Field(1, ge=1, description="Model replicas; with `model.max_replicas` the fewest.")
    max_replicas: int = Field(0, ge=0, description="Most Model replicas, as load wants (0: always `replicas`).")
    target_ongoing: float = Field(8, gt=0, description="Requests in flight for which autoscaling wants one replica.")
    page_in_share: Fraction = Field(
        0.2, description="Share of requests waiting for an adapter above which autoscaling adds a replica."
    )
    upscale_delay_s: float = Field(30, ge=0, description="Seconds that more replicas must be wanted until they start.")
    downscale_delay_s: float = Field(600, ge=0, description="Seconds that fewer must be wanted until some end.")
    gpus: float = Field(0, ge=0, description="GPUs that each Model replica reserves; above 0 it computes on `cuda`.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Number format of the weights.")
    threads: int = Field(0, ge=0, description="Torch CPU threads of a replica; 0 leaves torch's own choice.")
    max_batch: int = Field(16, ge=1, description="Requests generated together.")
    max_mixture: int = Field(4, ge=1, description="Adapters that one request mixes at most.")
    kv_tokens: int = Field(
        16384, ge=64, description="Tokens whose keys and values a replica holds, of one request or of all together."
    )
    lora_pages: int = Field(32, ge=1, description="Pages of 8 ranks that a step multiplies with at most.")
    prefill_chunk: int = Field(512, ge=1, description="Prompt tokens read at most between two tokens of the answers.")
    max_tokens: int = Field(256, ge=1, description="Most tokens of one answer, and the default of `max_tokens`.")
    encode_blocks: int = Field(
        2, ge=1, description="Decoder blocks that run before the router's text features are read."
    )
    image_cache: int = Field(64, ge=0, description="Screens whose vision features a replica keeps (0: none).")
    state_cache: int = Field(
        64, ge=0, description="Prompts whose states after the first `encode_blocks` a replica keeps (0: none)."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if 0 < self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, expected 0 or at least {self.replicas} (replicas)")
        return self

    @property
    def public_name(self) -> str:
        """What clients call the base model."""
        return self.name or Path(self.path).name


class CacheSettings(Group):
    """Where a Model replica keeps adapters: on its device, in host memory, on disk."""

    device_rows: int = Field(
        256, ge=8, multiple_of=8, description="Rank rows of adapters on the device, in pages of 8, taken at the start."
    )
    host_bytes: int = Field(4 << 30, ge=0, description="Bytes of adapters in host memory, ready to be paged in.")
    roots: tuple[Path, ...] = Field(
        (), description="Directories, besides `model.adapters`, that adapters may be added from."
    )
    largest_bytes: int = Field(
        4 << 30, ge=1, description="Bytes of the largest adapter's weights; larger ones are neither fetched nor read."
    )
    hub_owners: frozenset[str] = Field(
        frozenset(),
        description="Users and organisations on Hugging Face whose repositories may be added; none: no one.",
    )
    bases: frozenset[str] = Field(
        frozenset(),
        description="Names that adapters may give their base, besides those of `model.path` and `model.name`; the "
        "last part of a path counts.",
    )
    policy: ResidencyName = Field(
        "lru", description="Which idle adapter leaves the device when there is no room; `polar` ones follow a plan."
    )
    epoch: int = Field(8, ge=1, description="Decisions of the first epoch of `polar_plus`; each next one is doubled.")
    epoch_longest: int = Field(64, ge=1, description="Decisions of the longest epoch, and of every one of `polar`.")
    plan_window: int = Field(
        200, ge=1, description="Latest runs that a plan is made for: decisions in a row that the same adapters served."
    )
    plan_horizon: int = Field(64, ge=1, description="Runs in which a fetched adapter must pay for itself.")
    plan_caution: float = Field(0.2, ge=0, description="Widths that an arm's mean is lowered by when a plan is made.")
    plan_s: float = Field(1.0, gt=0, description="Least seconds between plans, and between looks at the plan.")

    @model_validator(mode="after")
    def _epochs_in_order(self) -> Self:
        if self.epoch > self.epoch_longest:
            raise ValueError(f"epoch is {self.epoch}, expected at most {self.epoch_longest} (epoch_longest)")
        return self


class RouterSettings(Group):
    """Who decides, and how much it explores."""

    path: Path = Field(
        EMBEDDED_WORLD / "router",
        description="Trained router of a new deployment; `pointsman router activate` changes it for good.",
    )
    policy: PolicyName = Field("linucb", description="Policy that serves `model=auto`.")
    mode: Mode = Field("online", description="Mode of a new deployment; `pointsman mode` changes it for good.")
    shadow_policies: tuple[PolicyName, ...] = Field(
        (), description="Policies that the Learner scores on the log whoever serves; names as in `router.policy`."
    )
    fixed_arm: str = Field("base", description="Arm of the policy `fixed`.")
    alpha: float = Field(0.2, ge=0, description="Weight of the posterior width in the LinUCB score.")
    epsilon_supervised: Fraction = Field(0.02, description="Share of decisions that follow the supervised router.")
    epsilon_uniform: Fraction = Field(0.03, description="Share of decisions uniform over plausible and new arms.")
    burn_in: int = Field(20, ge=0, description="Decisions during which an arm is always among the explored ones.")
    episode_margin: float = Field(
        0.3, ge=0, description="Gain, without exploring, for which an episode goes on with another arm than its last."
    )
    all_widths: int = Field(256, ge=1, description="Arms up to which each one's width is computed for a decision.")
    top_widths: int = Field(32, ge=1, description="Above `all_widths`: arms, best by mean, whose widths are computed.")
    neighbours: int = Field(15, ge=1, description="Examples that the policy `knn` asks.")
    samples: int = Field(1000, ge=1, description="Draws from which the policy `lints` estimates its propensities.")
    cost_per_ms: float = Field(0.0001, ge=0, description="Reward that one millisecond of extra waiting is worth.")
    page_in_ms: float = Field(50, ge=0, description="Assumed milliseconds to load an adapter that is not resident.")
    mixtures: tuple[Template, ...] = Field(
        ("top2", "soft"),
        description="Mixtures that are arms, by supervised gates: of two adapters, or of `model.max_mixture` at most.",
    )
    look_s: float = Field(
        1.0, gt=0, description="Seconds between two looks at every Model replica: how old residency and queues may get."
    )
    top_arms: int = Field(16, ge=1, description="Arms whose mean, width, cost and score are logged with a decision.")
    retry_window_s: int = Field(600, ge=1, description="Seconds in which a repeated request gets its first decision.")
    refresh_s: float = Field(1.0, gt=0, le=2, description="Longest wait for the next snapshot before asking again.")


class LearnerSettings(Group):
    """How rewards become beliefs."""

    discount: float = Field(0.998, gt=0, le=1, description="Decay of an arm's evidence per own decision (1: none).")
    ridge: float = Field(1.0, gt=0, description="λ, the precision of an arm that nothing is known of.")
    prior_weight: float = Field(
        100, ge=0, description="n_eff: decisions that the supervised data are worth; more where page-ins are dear."
    )
    prior_wrong: Fraction = Field(0.1, description="ρ: weight of an example that is labelled with another adapter.")
    new_arm_weight: float = Field(1.0, ge=0, description="n₀: decisions that a new arm's prior is worth.")
    new_arm_mean: Fraction = Field(0.5, description="Prior mean reward of a new arm.")
    version_carry: Fraction = Field(0.5, description="Share of evidence and prior kept when weights change.")
    credit: Literal["equal", "last", "discounted"] = Field(
        "equal", description="How an episode's reward, one observation, is shared among its decisions."
    )
    credit_discount: Fraction = Field(0.9, description="With `discounted`: share of a step relative to the next one.")
    drift_threshold: float = Field(10.0, ge=0, description="Residual sum that raises a drift alarm (0: no test).")
    drift_slack: float = Field(0.5, ge=0, description="Part of every residual, in deviations, that the test forgives.")
    drift_trust: Fraction = Field(0.25, description="Share of the prior's trust κ that a drift alarm leaves.")
    drift_carry: Fraction = Field(0.25, description="Share of the evidence that a drift alarm leaves.")
    reward_window_s: float = Field(604800, gt=0, description="Seconds until a decision without feedback is closed.")
    learn_late: bool = Field(False, description="Whether feedback after the reward window is learned, not only logged.")
    timeout_reward: Fraction | None = Field(
        None, description="Reward of a decision that was answered and had no feedback in its window; empty: none."
    )
    key_cap: float = Field(
        0, ge=0, description="Most evidence, in decisions, that one key's feedback may hold of an arm (0: no limit)."
    )
    batch: int = Field(1000, ge=1, description="Events folded at most in one step.")
    pace_ms: float = Field(50, ge=0, description="Pause between steps, so that a burst becomes one snapshot.")


class GuardSettings(Group):
    """What watches that the policy is not worse than the supervised one."""

    delta: float = Field(0.01, gt=0, le=1, description="Chance that a policy which is not worse ever raises the alarm.")
    margin: Fraction = Field(0.01, description="Reward by which the policy may be worse than the supervised one.")
    fallback: bool = Field(True, description="At the alarm the supervised policy serves until the guard is reset.")


class StoreSettings(Group):
    """Redis: the one store."""

    url: SecretStr = Field(
        SecretStr(""), description="Redis URL; empty: `REDIS_URL`, else an embedded server in `store.data_dir`."
    )
    data_dir: Path = Field(Path("data"), description="Directory of the embedded Redis server.")
    prefix: str = Field("pointsman:", min_length=1, description="Prefix of every key: services can share a Redis.")
    retention_s: float = Field(2592000, gt=0, description="Seconds after a decision in which feedback on it is taken.")
    hot_s: float = Field(
        86400, gt=0, description="Seconds that events stay in Redis; older ones are sealed into `store.archive`."
    )
    archive: Path | None = Field(
        None, description="Directory of the sealed events; empty: `archive` in `store.data_dir`."
    )
    patience_s: float = Field(
        2.0,
        gt=0,
        description="Seconds that a request waits for Redis; then it is kept by its Router, and feedback gets a 503.",
    )
    journal: int = Field(
        1000, ge=0, description="Decisions that a Router keeps while Redis is away (0: requests get a 503 then)."
    )
    segment: int = Field(5000, ge=1, description="Events of one sealed file.")
    keep_s: float = Field(
        0, ge=0, description="Seconds that sealed events are kept (0: for good); at least twice `store.retention_s`."
    )

    keep_screens: int = Field(
        0, ge=0, le=10000, description="Latest screens kept in Redis, made smaller, for the dashboard (0: none)."
    )

    @model_validator(mode="after")
    def _kept_while_needed(self) -> Self:
        if 0 < self.keep_s < 2 * self.retention_s:
            raise ValueError(
                f"keep_s is {self.keep_s}, expected 0 or at least {2 * self.retention_s} (2 · retention_s)"
            )
        return self

    @property
    def archive_dir(self) -> Path:
        """Where sealed events are."""
        return self.archive or self.data_dir / "archive"

    @property
    def external_url(self) -> str | None:
        """The Redis that somebody else runs, if one is configured."""
        return self.url.get_secret_value() or os.environ.get("REDIS_URL") or None


class ApiKey(Group):
    """One bearer key. Only its hash is stored."""

    name: str = Field(
        min_length=1, pattern="^[^/]+$", description="Name of the key, without '/': whose word its feedback is."
    )
    sha256: Annotated[str, AfterValidator(_sha256_hex)] = Field(description="SHA-256 of the key, lower-case hex.")
    scopes: frozenset[Scope] = Field(
        description="What the key may do: infer, feedback, inspect (see everything), admin (see and change)."
    )
    tenant: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Who the key belongs to: it sees, and gives feedback on, this tenant's decisions only.",
    )
    arms: frozenset[str] = Field(frozenset(), description="Arms that may serve the key's requests; none named: all.")
    per_minute: int | None = Field(
        None, ge=0, description="Requests a minute at each Router, in place of `limits.per_minute` (0: any number)."
    )


class AuthSettings(Group):
    """Who may call."""

    keys: tuple[ApiKey, ...] = Field((), description="Bearer keys; without any, every caller may do everything.")


class LimitSettings(Group):
    """What a request may ask for."""

    body_bytes: int = Field(32 << 20, ge=1024, description="Largest request body in bytes.")
    image_pixels: int = Field(16_000_000, ge=1, description="Largest image, width × height.")
    messages: int = Field(256, ge=1, description="Most messages in one chat.")
    images: int = Field(16, ge=1, description="Most images in one chat.")
    choices: int = Field(8, ge=1, description="Most answers (`n`) to one chat.")
    feedback_items: int = Field(1000, ge=1, description="Most feedback items in one call.")
    per_minute: int = Field(0, ge=0, description="Requests a minute of one key at each Router (0: any number).")
    image_hosts: frozenset[str] = Field(frozenset(), description="Hosts to fetch images from; none: data URLs only.")
    image_networks: tuple[IPvAnyNetwork, ...] = Field(
        (), description="Private networks that those hosts may lie in, such as 10.20.0.0/16; others must be public."
    )


class TelemetrySettings(Group):
    """What people and their tools see of a running service, besides its own pages."""

    log_format: Literal["text", "json"] = Field("text", description="Form of the log lines.")
    traces: Literal["off", "file", "otlp"] = Field(
        "off", description="Where spans go: files beside Serve's logs, or OTLP as `OTEL_EXPORTER_OTLP_*` say."
    )
    trace_share: Fraction = Field(0.01, description="Share of requests that are traced, unless the client decides.")


class Settings(BaseSettings):
    """All settings, by group."""

    model_config = SettingsConfigDict(
        env_prefix="POINTSMAN_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    server: ServerSettings = Field(default_factory=ServerSettings, description=ServerSettings.__doc__)
    model: ModelSettings = Field(default_factory=ModelSettings, description=ModelSettings.__doc__)
    cache: CacheSettings = Field(default_factory=CacheSettings, description=CacheSettings.__doc__)
    router: RouterSettings = Field(default_factory=RouterSettings, description=RouterSettings.__doc__)
    learner: LearnerSettings = Field(default_factory=LearnerSettings, description=LearnerSettings.__doc__)
    guard: GuardSettings = Field(default_factory=GuardSettings, description=GuardSettings.__doc__)
    store: StoreSettings = Field(default_factory=StoreSettings, description=StoreSettings.__doc__)
    auth: AuthSettings = Field(default_factory=AuthSettings, description=AuthSettings.__doc__)
    limits: LimitSettings = Field(default_factory=LimitSettings, description=LimitSettings.__doc__)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings, description=TelemetrySettings.__doc__)

    def tuned(self, changes: Mapping[str, Mapping[str, Any]]) -> Self:
        """These settings with other values for tunable ones, by group.

        Raises ValueError for a setting that needs a restart, and for a value that it cannot have.
        """
        groups: dict[str, Group] = {}
        for group, values in changes.items():
            if fixed := sorted(values.keys() - TUNABLE.get(group, frozenset())):
                tunable = ", ".join(f"{g}.{name}" for g, names in TUNABLE.items() for name in sorted(names))
                raise ValueError(f"{group}.{fixed[0]} cannot change while the service runs, expected some of {tunable}")
            held: Group = getattr(self, group)
            groups[group] = type(held).model_validate({**held.model_dump(), **values})
        return self.model_copy(update=groups)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Constructor over environment over the YAML file."""
        file = os.environ.get("POINTSMAN_CONFIG")
        if file and not Path(file).is_file():
            raise FileNotFoundError(f"POINTSMAN_CONFIG: no such file: {file}")
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=file)
