"""Prometheus metrics of one Router."""

from collections.abc import Iterable, Mapping
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from policies.evidence import ArmStatistics
from services.insight.answers import answers
from services.learning.watch import GuardView

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and histograms; label values are bounded by the arms and by the routes of the API."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        self.requests = Counter("pointsman_requests", "HTTP requests.", ("route", "status"), registry=self._all)
        self.latency = Histogram(
            "pointsman_request_seconds", "Seconds to the response.", ("route",), buckets=_SECONDS, registry=self._all
        )
        self.decisions = Counter("pointsman_decisions", "Decisions.", ("arm", "explored"), registry=self._all)
        self.resent = Counter(
            "pointsman_resent",
            "Requests sent to another replica, as theirs was lost or lacked files.",
            registry=self._all,
        )
        self.feedback = Counter("pointsman_feedback", "Feedback items.", ("status",), registry=self._all)
        self.coverage = Gauge(
            "pointsman_feedback_coverage", "Share of finished decisions with an outcome.", ("arm",), registry=self._all
        )
        self.delay = Gauge(
            "pointsman_feedback_delay_seconds", "Delay of outcomes.", ("arm", "quantile"), registry=self._all
        )
        self.pending = Gauge("pointsman_pending", "Decisions without an outcome yet.", ("arm",), registry=self._all)
        self.learner_age = Gauge(
            "pointsman_learner_age_seconds", "Seconds since the Learner's last step.", registry=self._all
        )
        self.store_away = Gauge("pointsman_store_away", "1 while Redis does not answer.", registry=self._all)
        self.kept = Gauge(
            "pointsman_kept_decisions", "Decisions that wait for Redis to be written.", registry=self._all
        )
        self.version = Gauge("pointsman_policy_version", "Version of the snapshot decided on.", registry=self._all)
        self.behind_events = Gauge(
            "pointsman_behind_events", "Events that the beliefs do not hold yet.", registry=self._all
        )
        self.behind_seconds = Gauge("pointsman_behind_seconds", "Age of the oldest of them.", registry=self._all)
        self.sealing_failed = Gauge(
            "pointsman_sealing_failed", "1 while events cannot be sealed into the archive.", registry=self._all
        )
        self.guard_evidence = Gauge(
            "pointsman_guard_evidence",
            "That the policy is worse than the supervised one; 1 at the alarm.",
            registry=self._all,
        )
        self.drifts = Gauge(
            "pointsman_drifts", "Changes of an arm that its rewards showed.", ("arm", "direction"), registry=self._all
        )
        self.deferred = Gauge(
            "pointsman_deferred_events", "Events on sealed decisions that cannot be read.", registry=self._all
        )
        self.guard_alarm = Gauge("pointsman_guard_alarm", "1 since the guard's alarm.", registry=self._all)
        self._resent = 0

    def arms(self, arms: Mapping[str, ArmStatistics]) -> None:
        """Show how each arm does, and how much of its feedback comes, and when; arms that are gone are not shown."""
        for gauge in (self.pending, self.coverage, self.delay, self.drifts):
            gauge.clear()
        for arm, statistics in arms.items():
            self.pending.labels(arm).set(statistics.pending)
            for direction, worse in (("worse", True), ("better", False)):
                found = sum(alarm.worse is worse for alarm in statistics.alarms)
                self.drifts.labels(arm, direction).set(found)
            known = answers(statistics)
            if known.coverage is not None:
                self.coverage.labels(arm).set(known.coverage)
            for name, seconds in (("0.5", known.delay_median_s), ("0.9", known.delay_p90_s)):
                if seconds is not None:
                    self.delay.labels(arm, name).set(seconds)

    def sent_again(self, total: int) -> None:
        """Show how many requests have been sent to another replica since the start."""
        self.resent.inc(total - self._resent)
        self._resent = total

    def guard(self, found: GuardView | None) -> None:
        """Show what the guard has found."""
        self.guard_evidence.set(found.evidence if found else 0.0)
        self.guard_alarm.set(found is not None and found.alarm is not None)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._all)


class _Merged:
    """The families of several expositions, each sample with the Router that it is of."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._families: dict[str, Metric] = {}
        for router, text in texts.items():
            for family in text_string_to_metric_families(text.decode()):
                known = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                known.samples += [each._replace(labels={**each.labels, "router": router}) for each in family.samples]

    def collect(self) -> Iterable[Metric]:
        """What `generate_latest` asks a registry for."""
        return self._families.values()


def merged(texts: Mapping[str, bytes]) -> bytes:
    """One exposition of several Routers': a label `router` tells them apart."""
    return generate_latest(cast(CollectorRegistry, _Merged(texts)))
