"""Calls of actors: a few at a time, their results in the order of the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

EACH = 2
"""The most calls that an actor has: one that runs, and one whose data is brought meanwhile."""
AHEAD = 4
"""For each actor, the most calls made beyond the first whose result is missing."""


def in_order(
    actors: Sequence[Any], calls: Iterable[tuple[Any, ...]], arrived: Callable[[Any], None]
) -> Iterator[Any]:
    """Call `actor.work(*call)` for each call, and yield the results in the order of the calls.

    Each takes the same short time, however many calls and actors there are: who is done says so,
    and nobody is asked. A slow actor holds up the order but not the others, until they are `AHEAD`
    of it. So the data of at most `EACH` calls for each actor is in memory, and no more than
    `AHEAD` shards for each wait for one before them. An actor that starts later, on a machine that
    joins the cluster, gets calls from then on. Ray makes the calls of a lost actor again.

    Args:
        actors: Actors of Ray with two methods: `work`, and `ready`, which returns once the actor
            has started.
        calls: The arguments of each call. They are read as actors become free.
        arrived: Called with each result when it arrives, in any order.

    Raises:
        Exception: What a call raises, in the order of the calls, or what `calls` raises.
    """
    done: SimpleQueue[tuple[int, Any, Any]] = SimpleQueue()

    def watch(number: int, actor: Any, future: Any) -> None:
        future.add_done_callback(lambda ended: done.put((number, actor, ended)))

    for actor in actors:
        watch(-1, actor, actor.ready.remote().future())
    free: deque[Any] = deque()
    results: dict[int, Any] = {}
    source, more = iter(calls), True
    given = taken = 0
    while True:
        while more and free and given - taken < AHEAD * len(actors):
            call = next(source, None)
            if call is None:
                more = False
            else:
                actor = free.popleft()
                watch(given, actor, actor.work.remote(*call).future())
                given += 1
        while taken in results:
            ended = results.pop(taken)
            taken += 1
            yield ended.result()
        if not more and taken == given:
            return
        if free and more and given - taken < AHEAD * len(actors):
            continue
        for number, actor, ended in _waited(done):
            if number < 0:
                ended.result()  # raises what kept the actor from starting
                free.appendleft(actor)  # before the second calls of those that are busy
                free.extend([actor] * (EACH - 1))
                continue
            free.append(actor)
            results[number] = ended
            if ended.exception() is None:
                arrived(ended.result())


def _waited(done: SimpleQueue[Any]) -> Iterator[Any]:
    """Wait for something that is done, and yield all that is."""
    yield done.get()
    while not done.empty():
        yield done.get()
