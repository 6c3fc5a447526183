"""Everything that decides the outcome of a training besides the data; a YAML file may set any of it."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from policies.training.end_to_end import Gates

Stage = Literal[1, 2, 3]


class Part(BaseModel):
    """Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassifierOptions(Part):
    """Stage 1."""

    epochs: int = Field(60, ge=1, description="Most epochs.")
    patience: int = Field(8, ge=1, description="Epochs without a lower held-out loss before it ends.")
    batch_size: int = Field(64, ge=1, description="Examples a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Rate of AdamW.")
    weight_decay: float = Field(1e-2, ge=0, description="Of AdamW.")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="Share of the target that all adapters get.")


class MixtureOptions(Part):
    """What stages 2 and 3 have in common."""

    rounds: int = Field(12, ge=1, description="Rounds; after each the held-out examples are judged.")
    steps: int = Field(25, ge=1, description="Steps a round.")
    batch_size: int = Field(32, ge=1, description="Examples a step.")
    learning_rate: float = Field(5e-4, gt=0, description="Rate of AdamW.")
    weight_decay: float = Field(1e-3, ge=0, description="Of AdamW.")
    entropy: float = Field(0.02, ge=0, description="λ_H, of the gates' mean entropy.")
    kl: float = Field(0.1, ge=0, description="λ_KL, of the divergence from the smoothed labels where there are some.")
    balance: float = Field(0.1, ge=0, description="λ_LB, of uneven use within a batch.")
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="Share of the target that all adapters get.")
    gates: Gates = Field("soft", description="What a batch is computed under: soft, gumbel or straight_through.")
    temperature_start: float = Field(1.0, gt=0, description="τ at the first step.")
    temperature_end: float = Field(0.2, gt=0, description="τ at the last step, to which it falls.")


class EndToEndOptions(MixtureOptions):
    """Stage 2."""

    probes: int = Field(256, ge=0, description="Examples that every adapter answers alone first, without stage 1.")


class JointOptions(MixtureOptions):
    """Stage 3."""

    rounds: int = Field(4, ge=1, description="Rounds; after each the held-out examples are judged.")
    temperature_start: float = Field(0.2, gt=0, description="τ at the first step.")
    expert_rate: float = Field(0.1, gt=0, le=1, description="The adapters' rate, relative to the router's.")


class TrainingConfig(Part):
    """All options of `pointsman train`."""

    seed: int = Field(0, description="Of the split, the weights and the batches.")
    held_out: float = Field(0.2, gt=0, lt=1, description="Share of each adapter's examples that is only judged on.")
    balanced: bool = Field(True, description="Whether batches hold every adapter equally often.")
    hidden: int = Field(32, ge=1, description="Width of the router's hidden layer.")
    components: int = Field(16, ge=1, description="Principal components in the bandit's context.")
    stages: tuple[Stage, ...] = Field((), description="1, 2, 3; none: 1 where rows name adapters, else 2.")
    layer_gates: bool = Field(False, description="Whether stages 2 and 3 give every decoder block a head of its own.")
    arms: tuple[str, ...] = Field(
        (), description="Adapters to route to, rows that name others left out; none: those that rows name, else all."
    )
    measured: int = Field(200, ge=0, description="Held-out examples that are really answered, to compare what is kept.")
    max_tokens: int = Field(64, ge=1, description="Most tokens of such an answer.")
    clip: float = Field(50.0, ge=1, description="Largest weight 1/propensity of a logged decision or episode.")
    classifier: ClassifierOptions = ClassifierOptions()
    end_to_end: EndToEndOptions = EndToEndOptions()
    joint: JointOptions = JointOptions()

    @classmethod
    def load(cls, path: Path | None, **given: Any) -> Self:
        """The file's options, over them what is `given` and not None. ValueError names what is wrong."""
        found = _options(path) if path else {}
        try:
            return cls.model_validate(
                _merged(found, {name: value for name, value in given.items() if value is not None})
            )
        except ValidationError as error:
            raise ValueError((f"{path}: " if path else "") + cls._said(error.errors()[0])) from None

    @classmethod
    def _said(cls, fault: ErrorDetails) -> str:
        """What is wrong with an option."""
        *groups, name = fault["loc"]
        if fault["type"] != "extra_forbidden":
            return f"{'.'.join(map(str, fault['loc']))}: {fault['input']!r:.60}: {fault['msg']}"
        part: type[BaseModel] = cls
        for group in groups:
            part = type(getattr(part(), str(group)))
        where = f" of {'.'.join(map(str, groups))}" if groups else ""
        return f"option {name!r}{where} is unknown, expected some of {', '.join(part.model_fields)}"

    def fingerprint(self, *parts: str) -> str:
        """16 hex digits of the options and what else decides the outcome."""
        document = json.dumps([self.model_dump(mode="json"), *parts], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def _options(path: Path) -> dict[str, Any]:
    """The options of a file. ValueError: it is no YAML, or does not name options."""
    try:
        found = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__}, expected options by name")
    return found


def _merged(found: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    merged = dict(found)
    for name, value in given.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
