import json

import pytest

from alignloop.rl.guard import AlarmLimits, RolloutReading, TrainingGuard


def feed(guard: TrainingGuard, readings: list[RolloutReading]) -> list[set[str]]:
    return [{alarm.name for alarm in guard.update(reading)} for reading in readings]


def steady(**changes: float) -> RolloutReading:
    return RolloutReading(**{"reward": 1.0, "length": 10.0, "entropy": 1.0, **changes})


@pytest.mark.parametrize(
    ("name", "before", "after", "fine"),
    [
        ("length_growth", {"length": 10.0}, {"length": 21.0}, {"length": 20.0}),
        ("entropy_collapse", {"entropy": 1.0}, {"entropy": 0.19}, {"entropy": 0.21}),
        ("spread_growth", {"spread": 0.5}, {"spread": 1.1}, {"spread": 0.9}),
        ("kl_over_budget", {"kl": 1.0}, {"kl": 5.1}, {"kl": 4.9}),
        (
            "reward_up_gold_down",
            {"reward": 1.0, "gold": 0.5},
            {"reward": 1.2, "gold": 0.44},
            {"reward": 0.9, "gold": 0.44},  # both fall: no sign of exploitation
        ),
    ],
)
def test_each_alarm_and_no_other(name: str, before: dict, after: dict, fine: dict) -> None:
    limits = AlarmLimits(window=2, kl_budget=5.0)
    start = [steady(**before)] * 2
    assert feed(TrainingGuard(limits), [*start, *[steady(**after)] * 2])[-1] == {name}
    assert feed(TrainingGuard(limits), [*start, *[steady(**fine)] * 2])[-1] == set()


def test_one_outlier_is_no_alarm() -> None:
    guard = TrainingGuard(AlarmLimits(window=4))
    assert feed(guard, [*[steady()] * 7, steady(length=40.0), steady()])[-1] == set()  # mean 17.5 < 20


def test_the_kl_budget_holds_from_the_first_rollout() -> None:
    assert feed(TrainingGuard(AlarmLimits(kl_budget=1.0)), [steady(kl=2.0)]) == [{"kl_over_budget"}]
    assert feed(TrainingGuard(AlarmLimits(kl_budget=0.0)), [steady(kl=2.0)] * 20)[-1] == set()


def test_the_best_is_the_highest_running_mean() -> None:
    guard = TrainingGuard(AlarmLimits(window=2), follow="gold")
    golds = [0.2, 0.4, 0.6, 0.5, 0.9, 0.1]  # means 0.3, 0.5, 0.55, 0.7, 0.5
    found = []
    for gold in golds:
        guard.update(steady(gold=gold))
        found.append(guard.is_best())
    assert found == [False, True, True, False, True, False]  # 0.5 is below the mean 0.55 that it lifts
    assert guard.best is not None
    assert guard.best["value"] == pytest.approx(0.7)
    assert guard.best["rollout"] == 4


def test_weights_past_their_peak_are_not_the_best() -> None:
    guard = TrainingGuard(AlarmLimits(window=4), follow="gold")
    kept = None
    for rollout, gold in enumerate([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.55, 0.3]):
        guard.update(steady(gold=gold))
        kept = rollout if guard.is_best() else kept
    # the mean rises once more, from 0.55 to 0.5875, while the policy falls from 0.7 to 0.55
    assert kept == 5


def test_a_fall_from_the_start_keeps_the_first_window() -> None:
    guard = TrainingGuard(AlarmLimits(window=2), follow="gold")
    found = []
    for gold in (0.9, 0.8, 0.7, 0.6):
        guard.update(steady(gold=gold))
        found.append(guard.is_best())
    assert found == [False, True, False, False]


def test_nothing_is_best_without_a_measure() -> None:
    guard = TrainingGuard(AlarmLimits(window=1))
    guard.update(steady())
    assert not guard.is_best()
    gold = TrainingGuard(AlarmLimits(window=1), follow="gold")
    gold.update(steady())
    assert not gold.is_best()


def test_state_goes_through_json() -> None:
    guard = TrainingGuard(AlarmLimits(window=1), follow="reward")
    guard.update(steady(gold=0.3))
    guard.is_best()
    other = TrainingGuard(AlarmLimits(window=1), follow="reward")
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other == guard


def test_what_is_measured_now_and_then_is_compared_where_it_is() -> None:
    """A spread or gold in the first window alone, or in the last alone, has nothing to be compared with."""
    limits = AlarmLimits(window=2)
    for measured in ({"spread": 9.0}, {"gold": 0.1}):
        for places in ({0, 1}, {2, 3}, {4}):
            guard = TrainingGuard(limits)
            readings = [steady(**(measured if i in places else {})) for i in range(5)]
            assert feed(guard, readings)[-1] == set()
    # means of what is there: 1 in the first window, 2.1 in the last
    later = [steady(spread=1.0), steady(), steady(), steady(spread=2.1)]
    assert feed(TrainingGuard(limits), later)[-1] == {"spread_growth"}


@pytest.mark.parametrize(
    ("start", "edge", "beyond"),
    [
        ({"length": 10.0}, {"length": 20.0}, {"length": 20.5}),
        ({"entropy": 1.0}, {"entropy": 0.25}, {"entropy": 0.2}),
        ({"spread": 0.5}, {"spread": 1.0}, {"spread": 1.25}),
        ({"kl": 1.0}, {"kl": 5.0}, {"kl": 5.5}),
        ({"gold": 0.5}, {"gold": 0.25, "reward": 2.0}, {"gold": 0.0, "reward": 2.0}),
        ({"gold": 0.5}, {"gold": 0.0, "reward": 1.0}, {"gold": 0.0, "reward": 1.5}),
    ],
)
def test_limits_themselves_are_allowed(start: dict, edge: dict, beyond: dict) -> None:
    limits = AlarmLimits(window=1, kl_budget=5.0, gold_drop=0.25, entropy_factor=0.25)
    assert feed(TrainingGuard(limits), [steady(**start), steady(**edge)])[-1] == set()
    assert len(feed(TrainingGuard(limits), [steady(**start), steady(**beyond)])[-1]) == 1


def test_nothing_is_compared_before_two_windows_are_full() -> None:
    guard = TrainingGuard(AlarmLimits(window=2, kl_budget=5.0))
    grown = steady(length=99.0, kl=1.0)
    assert feed(guard, [steady(kl=1.0), steady(kl=1.0), grown]) == [set()] * 3
    assert feed(guard, [grown]) == [{"length_growth"}]


def test_gold_at_its_best_by_hand() -> None:
    """The reward and the rollout at the best mean; an equal mean later does not replace it."""
    guard = TrainingGuard(AlarmLimits(window=2), follow="gold")
    found = []
    for reward, gold in ((1.0, 0.25), (2.0, 0.75), (3.0, 0.25), (5.0, 0.75)):
        guard.update(steady(reward=reward, gold=gold))
        found.append((guard.best_gold, guard.is_best()))
    best = {"value": 0.5, "reward": 1.5, "rollout": 1.0}
    assert found == [(None, False), (best, True), (best, False), (best, False)]
    assert guard.best == best


def test_the_documented_limits() -> None:
    assert AlarmLimits() == AlarmLimits(5, 0.0, 0.05, 2.0, 0.2, 2.0)
    reading = RolloutReading(1.0, 2.0, 3.0)
    assert reading.gold is reading.kl is reading.spread is None


def test_the_sentences_of_alarms() -> None:
    guard = TrainingGuard(AlarmLimits(window=1, kl_budget=5.0))
    guard.update(RolloutReading(1.0, 10.0, 1.0, gold=0.5, kl=1.0, spread=0.5))
    alarms = guard.update(RolloutReading(1.5, 30.0, 0.125, gold=0.25, kl=6.0, spread=2.0))
    assert [alarm.text for alarm in alarms] == [
        "KL 6.00 nats per completion is above the budget of 5",
        "reward rose from 1.000 to 1.500 while gold fell from its best 0.500 to 0.250: the reward is being "
        "exploited",
        "length grew from 10 to 30, more than 2 times",
        "spread grew from 0.5 to 2, more than 2 times",
        "entropy fell from 1 to 0.125 nats per token: answers become all alike",
    ]
