import pytest

from policies import PolicyConfig, create
from policies.evidence import ArmStatistics
from tests.policies.worlds import ARMS, DIMENSION, context, posterior

GREEDY = PolicyConfig(alpha=0.0, epsilon_supervised=0.0, epsilon_uniform=0.0)


def test_score_is_mean_plus_width_minus_cost() -> None:
    config = PolicyConfig(alpha=2.0, cost_per_ms=0.001)
    belief, eligible = posterior(), ("inbox", "calendar")
    choice = create("linucb", belief, config).decide(context(), eligible=eligible, costs={"inbox": 40.0}, seed="s")
    rows = belief.rows(eligible)
    assert choice.arms == eligible
    assert choice.means == pytest.approx(belief.means(context().x)[rows])
    assert choice.widths == pytest.approx(belief.widths(context().x)[rows])
    assert choice.costs.tolist() == [40.0, 0.0]
    assert choice.scores == pytest.approx(choice.means + 2.0 * choice.widths - [0.04, 0.0])


@pytest.mark.parametrize("family", range(3))
def test_the_cold_router_serves_the_labelled_arm(family: int) -> None:
    choice = create("linucb", posterior(), GREEDY).decide(context(family), eligible=ARMS, costs={}, seed="s")
    assert choice.arm == ARMS[family]
    assert (choice.propensity, choice.explored) == (1.0, False)


def test_ties_go_to_the_first_eligible() -> None:
    policy = create("linucb", posterior("one", "two"), GREEDY)
    for eligible in (["one", "two"], ["two", "one"]):
        assert policy.decide(context(), eligible=eligible, costs={}, seed="s").arm == eligible[0]


def test_cost_moves_the_choice() -> None:
    policy = create(
        "linucb", posterior(), PolicyConfig(alpha=0, epsilon_supervised=0, epsilon_uniform=0, cost_per_ms=1e-3)
    )
    assert policy.decide(context(0), eligible=ARMS, costs={"calendar": 10.0}, seed="s").arm == "calendar"
    assert policy.decide(context(0), eligible=ARMS, costs={"calendar": 5_000.0}, seed="s").arm != "calendar"


def test_burn_in_ends_with_the_pulls() -> None:
    """A hopeless new arm is a candidate for burn_in pulls and no longer, whether pulled in a snapshot or since."""
    config = PolicyConfig(alpha=0.0, epsilon_supervised=0.0, epsilon_uniform=0.5, burn_in=3)
    belief = posterior("new")
    hopeless = ArmStatistics.empty(DIMENSION, 1.0)
    x = context().x
    for _ in range(2):
        hopeless.mature(x, hopeless.pull(x, 0.0), 0.0, 100.0, 0.0, was_pending=True)
    belief.put("new", hopeless)
    policy = create("linucb", belief, config)

    def served() -> set[str]:
        eligible = (*ARMS, "new")
        return {policy.decide(context(), eligible=eligible, costs={}, seed=str(i)).arm for i in range(200)}

    assert served() == {"calendar", "new"}
    belief.overlay("new", x)
    assert served() == {"calendar"}
