"""The queue in which keys take turns."""

from __future__ import annotations

from collections import defaultdict, deque

from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.generation.fair import FairQueue

keys = st.sampled_from("abc")
steps = st.lists(st.one_of(keys, st.none()), max_size=40)


@given(steps=steps)
def test_first_come_first_served_within_a_key_and_turns_between_keys(
    steps: list[str | None],
) -> None:
    """Against the plainest model there is: a list of turns, and a queue for each key."""
    queue: FairQueue[int] = FairQueue()
    lines: dict[str, deque[int]] = defaultdict(deque)
    turns: list[str] = []
    for number, key in enumerate(steps):
        if key is not None:
            queue.push(key, number)
            lines[key].append(number)
            turns += [] if key in turns else [key]
        elif turns:
            expected = turns.pop(0)
            assert queue.pop() == (expected, lines[expected].popleft())
            turns += [expected] if lines[expected] else []
        assert len(queue) == sum(map(len, lines.values()))
        assert all(queue.waiting(key) == len(line) for key, line in lines.items())


@given(pushes=st.lists(keys), unwanted=st.sets(st.integers(0, 20)))
def test_removed_items_are_given_back_and_the_rest_stays(
    pushes: list[str], unwanted: set[int]
) -> None:
    queue: FairQueue[int] = FairQueue()
    for number, key in enumerate(pushes):
        queue.push(key, number)
    removed = queue.remove(lambda number: number in unwanted)
    assert set(removed) == unwanted & set(range(len(pushes)))
    left = [queue.pop()[1] for _item in range(len(queue))]
    assert sorted(left + removed) == list(range(len(pushes)))


def test_a_key_with_much_waiting_does_not_hold_up_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(5):
        queue.push("busy", f"busy {number}")
    queue.push("rare", "rare 0")
    assert [queue.pop()[1] for _item in range(3)] == ["busy 0", "rare 0", "busy 1"]
