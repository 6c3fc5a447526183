"""A renamed arm is what it was: to the prior, to the gates, and to every policy that knows arms by their examples."""

import pytest

from policies.evidence import ArmStatistics
from tests.policies.test_policies import NAMES, PLAIN, made
from tests.policies.worlds import ARMS, DIMENSION, context


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_scores_it_as_before(name: str) -> None:
    before, after = made(name, PLAIN), made(name, PLAIN)
    statistics = ArmStatistics.empty(DIMENSION, 1.0)
    statistics.former = ["inbox", "mail"]
    after.posterior.remove("inbox")
    after.posterior.put("post", statistics)
    for family in range(3):
        seen = context(family)._replace(task="sort")
        own = before.decide(seen, eligible=ARMS, costs={}, seed="s")
        renamed = ("calendar", "claims", "post")
        choice = after.decide(after.posterior.named(seen), eligible=renamed, costs={}, seed="s")
        assert choice.scores.tolist() == pytest.approx(own.scores.tolist())
        assert choice.supervised == own.supervised.replace("inbox", "post")
        assert choice.widths.tolist() == pytest.approx(own.widths.tolist())
