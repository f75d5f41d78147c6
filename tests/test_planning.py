"""Plans are the cheapest ones, also at their borders; `tools/mutation.py` says what the notebook leaves open."""

import random
from dataclasses import FrozenInstanceError

import pytest

from llm_dit.encoding.planning import Group, plan_batches, plan_groups

pytestmark = pytest.mark.side_by_side


def partitions(items):
    """Every way to put items into groups."""
    if not items:
        yield []
        return
    first, *others = items
    for groups in partitions(others):
        yield [[first], *groups]
        for n, group in enumerate(groups):
            yield [*groups[:n], [first, *group], *groups[n + 1 :]]


def batch_cost(lengths, batches, call_cost):
    """Tokens of padded batches, and what their steps cost."""
    return sum(len(batch) * max(lengths[i] for i in batch) + call_cost for batch in batches)


def fits(lengths, batches, budget):
    """Whether no batch is over the budget that has more than one prompt."""
    return all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


def test_no_way_to_batch_is_cheaper():
    rng = random.Random(0)
    for _ in range(60):
        lengths = [rng.randrange(30) for _ in range(rng.randrange(1, 7))]
        budget, call_cost = rng.randrange(1, 120), rng.choice([0, 3, 20])
        plan = plan_batches(lengths, budget, call_cost)
        assert fits(lengths, plan, budget) and sorted(i for group in plan for i in group) == list(range(len(lengths)))
        cheapest = min(
            batch_cost(lengths, way, call_cost)
            for way in partitions(list(range(len(lengths))))
            if fits(lengths, way, budget)
        )
        assert batch_cost(lengths, plan, call_cost) == cheapest, (lengths, budget, call_cost)


def test_batches_at_the_border_of_the_budget():
    assert plan_batches([1] * 4, 4) == [[0, 1, 2, 3]]
    assert plan_batches([100, 100], 50) == [[0], [1]], "each is over the budget alone; together they are not better"
    assert plan_batches([0, 0], 10) == [[0, 1]], "prompts without tokens"


def test_a_group_has_to_save_two_steps_of_forty_tokens():
    def pair(shared):
        return [[1] * shared + [2], [1] * shared + [3]]

    assert plan_groups(pair(80)) == [Group(0, (0, 1))]
    assert plan_groups(pair(81)) == [Group(81, (0, 1))]


@pytest.mark.parametrize(
    "deep, expected",
    [
        (199, [Group(100, (0, 1, 2))]),
        (200, [Group(200, (0, 1)), Group(0, (2,))]),
        (201, [Group(201, (0, 1)), Group(0, (2,))]),
    ],
)
def test_the_smaller_of_two_nested_groups_if_it_saves_as_much(deep, expected):
    """The pair saves `deep` tokens and all three save 200; both take two steps."""
    begin = [1] * 100
    pair = [1] * deep
    assert plan_groups([[*pair, 5], [*pair, 6], [*begin, 7]], call_cost=8) == expected


def test_a_group_is_a_key_and_does_not_change():
    group = Group(3, (0, 1))
    assert {group: "a"}[Group(3, (0, 1))] == "a"
    with pytest.raises(FrozenInstanceError):
        group.shared = 4
