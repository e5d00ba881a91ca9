"""The engine's slots, and whose sequences are in them."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_serving.generation.tickets import Slot, Ticket, best_slot


class Batch:
    """Who is in which slot; changed by the scheduler's thread alone, under its lock."""

    def __init__(self, slots: int, chunk: int) -> None:
        """Prompts are read, and kept, in chunks of so many tokens."""
        self.slots = [Slot() for _slot in range(slots)]
        self._chunk = chunk
        # the slots with a ticket: most steps have few, and looking through all would take longer
        self.busy: set[int] = set()

    @property
    def free(self) -> int:
        return len(self.slots) - len(self.busy)

    @property
    def cache_tokens(self) -> int:
        return sum(slot.length for slot in self.slots)

    def ticket(self, index: int) -> Ticket:
        """What is in a busy slot."""
        ticket = self.slots[index].ticket
        assert ticket is not None
        return ticket

    def tickets(self) -> list[Ticket]:
        return [self.ticket(index) for index in sorted(self.busy)]

    def place(self, ticket: Ticket) -> None:
        """Into the free slot that holds most of its prompt."""
        best, reused = best_slot(self.slots, ticket.request, self._chunk)
        self.slots[best] = Slot(ticket, ticket.request.key)
        self.busy.add(best)
        ticket.read = ticket.reused = reused

    def release(self, index: int) -> Ticket:
        """Free a busy slot; it keeps whole chunks of the prompt that was in it."""
        slot, ticket = self.slots[index], self.ticket(index)
        whole = ticket.read // self._chunk * self._chunk
        slot.held = ticket.request.prompt[:whole]
        slot.ticket = None
        self.busy.remove(index)
        ticket.ended = True
        return ticket

    def clear(self) -> list[Ticket]:
        """Free all slots; give what was in them."""
        left = self.tickets()
        self.slots = [Slot() for _slot in self.slots]
        self.busy.clear()
        return left

    def forget(self) -> None:
        for slot in self.slots:
            slot.held = ()

    def can_step(self, index: int) -> bool:
        """Whether a busy slot need not wait for what may come next in it."""
        ticket = self.ticket(index)
        return not ticket.late or ticket.sampler.wait(0)

    def is_long(self, index: int) -> bool:
        """Whether more of a prompt is left than a chunk."""
        return self.ticket(index).left > self._chunk

    def long_and_other(self) -> tuple[int, int]:
        """Slots in the middle of a long prompt, and those in any other work."""
        busy = [index for index in self.busy if self.can_step(index)]
        long = sum(self.is_long(index) for index in busy)
        return long, len(busy) - long

    def next_prefill(self, turn: int, *, long_too: bool) -> int | None:
        """The prompts take turns; long ones come first where they may be read at all."""
        reading = [i for i in self.busy if self.ticket(i).left and self.can_step(i)]
        reading.sort(key=lambda index: (index - turn) % len(self.slots))
        long = [index for index in reading if self.is_long(index)] if long_too else []
        ending = [index for index in reading if not self.is_long(index)]
        return next(iter(long + ending), None)

    def past_prompt(self) -> int:
        """How many busy slots have read all of their prompts."""
        return sum(not self.ticket(index).left for index in self.busy)

    def ready(self) -> list[int]:
        """Slots past their prompt whose next token can be chosen."""
        found = []
        for index in sorted(self.busy):
            ticket = self.ticket(index)
            if not ticket.left and not ticket.full and self.can_step(index):
                found.append(index)
        return found

    def written(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        """Of the first slots the tokens that are next, and where a step may write them."""
        batch = self.slots[:count]
        tokens = [slot.ticket.last_token if slot.ticket else 0 for slot in batch]
        return tokens, [slot.length for slot in batch]
