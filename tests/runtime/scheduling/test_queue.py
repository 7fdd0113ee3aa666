from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.runtime.scheduling.queue import PackQueue, Policy, Ticket

BUDGET = 64

arrivals = st.lists(
    st.tuples(
        st.floats(0, 0.05, allow_subnormal=False),  # gap to the arrival before
        st.integers(1, BUDGET),
        st.sampled_from([-1, 0, 0, 0, 2]),
        st.sampled_from([math.inf, math.inf, 0.1]),
        st.booleans(),  # whether it leaves after half of the time that it could wait
    ),
    min_size=1,
    max_size=120,
)


@dataclass
class Simulation:
    """One engine that takes ``cost`` seconds a pack, on a clock that jumps from event to event."""

    queue: PackQueue
    cost: float
    clock: float = 0.0
    packs: list[tuple[float, list[Ticket]]] = field(default_factory=list)
    expired: dict[int, float] = field(default_factory=dict)
    free_at: float = 0.0

    def until(self, end: float) -> None:
        """Let the engine work until a moment."""
        while True:
            idle = self.free_at <= self.clock
            for ticket in self.queue.expired(self.clock):
                self.expired[id(ticket)] = self.clock
            taken = self.queue.take(self.clock, idle=idle) if idle else []
            if taken:
                self.packs.append((self.clock, taken))
                self.free_at = self.clock + self.cost
                continue
            event = min(self.queue.next_event(idle), math.inf if idle else self.free_at)
            if event > end or event == math.inf:
                break
            self.clock = max(event, self.clock)
        self.clock = max(self.clock, end) if end < math.inf else self.clock


@given(arrivals, st.floats(0.001, 0.2), st.integers(1, 8), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_no_image_is_lost_starved_or_run_late(specs, cost, max_images, look_ahead):
    policy = Policy(max_wait=0.01, look_ahead=look_ahead, head_start=0.3)
    simulation = Simulation(PackQueue(BUDGET, max_images, policy), cost)
    tickets, packs_before, leaving = [], [], []
    for gap, tokens, priority, allowed, leaves in specs:
        now = simulation.clock + gap
        simulation.until(now)
        ticket = Ticket(tokens, ("pooled",), now, now + allowed, now - priority * policy.head_start)
        simulation.queue.put(ticket, now)
        tickets.append(ticket)
        packs_before.append(len(simulation.packs))
        if leaves and len(tickets) % 3 == 0 and len(tickets) > 1:
            gone = tickets[-2]
            if gone.waiting:
                simulation.queue.remove(gone)
                leaving.append(id(gone))
    simulation.until(math.inf)

    ran = {id(ticket): (index, at) for index, (at, pack) in enumerate(simulation.packs) for ticket in pack}
    assert sum(len(pack) for _, pack in simulation.packs) == len(ran), "an image ran twice"
    assert {*ran} | {*simulation.expired} | {*leaving} == {id(ticket) for ticket in tickets}
    assert not {*ran} & ({*simulation.expired} | {*leaving})
    assert simulation.queue.tokens == simulation.queue.images == 0
    for at, pack in simulation.packs:
        assert sum(ticket.tokens for ticket in pack) <= BUDGET
        assert len(pack) <= max_images
        assert all(at < ticket.deadline for ticket in pack)
    for number, ticket in enumerate(tickets):
        if id(ticket) in simulation.expired:
            assert simulation.expired[id(ticket)] >= ticket.deadline
        if id(ticket) in ran:
            index, at = ran[id(ticket)]
            # While it waited, at most one pack started for each image ahead of it.
            place = (ticket.order, number)
            before = [other for i, other in enumerate(tickets) if (other.order, i) < place]
            assert index - packs_before[number] <= len(before), "an image was starved"
            assert at <= ticket.queued + policy.max_wait * 2 + cost * (len(before) + 1) + 1e-9, "the engine was idle"


@given(st.lists(st.integers(1, BUDGET), min_size=1, max_size=60))
def test_without_look_ahead_the_order_is_first_in_first_out(lengths):
    queue = PackQueue(BUDGET, 8, Policy(look_ahead=0, max_wait=0))
    tickets = [Ticket(tokens, (), float(i), order=float(i)) for i, tokens in enumerate(lengths)]
    for ticket in tickets:
        queue.put(ticket, ticket.arrival)
    firsts = []
    while pack := queue.take(1e9, idle=True):
        firsts.append(tickets.index(pack[0]))
    assert firsts == sorted(firsts)


def test_a_full_pack_is_made_ahead_of_its_run_and_a_part_full_one_is_not():
    queue = PackQueue(64, 8, Policy(max_wait=0.01))
    queue.put(Ticket(40, (), 0.0), 0.0)
    assert queue.take(5.0, idle=False) == []
    queue.put(Ticket(24, (), 0.0), 0.0)
    assert len(queue.take(0.0, idle=False)) == 2


def test_an_idle_engine_waits_no_longer_than_max_wait():
    queue = PackQueue(64, 8, Policy(max_wait=0.01))
    queue.put(Ticket(4, (), 1.0), 1.0)
    assert queue.next_event(idle=True) == pytest.approx(1.01)
    assert queue.take(1.005, idle=True) == []
    assert len(queue.take(1.01, idle=True)) == 1


@pytest.mark.parametrize(
    ("lengths", "idle", "packs"),
    [
        ([16] * 6, 2, [[16] * 3, [16] * 3]),
        ([16] * 3, 2, [[16] * 2, [16]]),
        ([16] * 3, 4, [[16] * 3]),  # all cores of a machine run one pack faster than three of them run one image each
        ([16] * 12, 2, [[16] * 4, [16] * 4]),
        ([60, 2, 2], 2, [[60], [2, 2]]),
    ],
)
def test_idle_engines_share_what_waits(lengths, idle, packs):
    queue = PackQueue(64, 8)
    for tokens in lengths:
        queue.put(Ticket(tokens, (), 0.0), 0.0)
    assert [[t.tokens for t in queue.take(1.0, idle - taken)] for taken in range(len(packs))] == packs


def test_engines_wait_for_images_that_are_being_decoded_until_each_has_a_full_pack():
    queue = PackQueue(64, 8, Policy(max_wait=0.01))
    for _ in range(7):
        queue.put(Ticket(16, (), 0.0), 0.0)
    assert queue.next_event(2, coming=0.5) == 0.5
    assert queue.take(0.4, 2, coming=0.5) == []
    assert len(queue.take(0.4, 0, coming=0.5)) == 4  # ahead of its run
    queue.put(Ticket(16, (), 0.0), 0.0)
    assert len(queue.take(0.4, 1, coming=0.5)) == 4


def test_look_ahead_fills_a_pack_around_an_image_that_does_not_fit():
    queue = PackQueue(64, 8, Policy(max_wait=0))
    for number, tokens in enumerate([40, 30, 20, 34]):
        queue.put(Ticket(tokens, (), float(number), order=float(number)), float(number))
    assert [t.tokens for t in queue.take(9.0, idle=True)] == [40, 20]
    assert [t.tokens for t in queue.take(9.0, idle=True)] == [30, 34]


def test_priority_is_a_bounded_head_start():
    queue = PackQueue(64, 1, Policy(max_wait=0, head_start=1.0))
    late, early, old = Ticket(9, (), 5.0, order=4.0), Ticket(9, (), 4.5, order=4.5), Ticket(9, (), 3.0, order=3.0)
    for ticket in (early, late, old):
        queue.put(ticket, ticket.arrival)
    assert [queue.take(9.0, idle=True)[0] for _ in range(3)] == [old, late, early]


def test_images_that_leave_do_not_pile_up():
    queue = PackQueue(64, 8, Policy(look_ahead=10))
    keep = Ticket(1, (), 0.0, deadline=1e9)
    queue.put(keep, 0.0)
    for number in range(1000):
        ticket = Ticket(1, (), float(number), deadline=1e8)
        queue.put(ticket, float(number))
        queue.remove(ticket)
    assert len(queue._line) < 20
    assert len(queue._deadlines) < 20
