"""The tokenizer thread: what counts as waiting, and what a caller that leaves takes along."""

import asyncio
import threading

import pytest

from mbti_ray.serving.text_queue import TextQueue

pytestmark = pytest.mark.unit

TEXT = "a" * 1000


async def until_idle(queue: TextQueue) -> None:
    async with asyncio.timeout(10):
        while queue.wait_s:
            await asyncio.sleep(0.01)


def test_abandoned_work_counts_as_waiting_until_the_thread_has_finished_it() -> None:
    async def main() -> None:
        queue, gate = TextQueue("tokenize"), threading.Event()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.run(lambda: gate.wait(10), [[TEXT]]), 0.05)
        assert queue.wait_s == pytest.approx(1000 / 1e6)
        gate.set()
        await until_idle(queue)

    asyncio.run(main())


def test_work_that_is_cancelled_before_it_starts_leaves_the_queue() -> None:
    async def main() -> None:
        queue, gate = TextQueue("tokenize"), threading.Event()
        ran: list[bool] = []
        first = asyncio.create_task(queue.run(lambda: gate.wait(10), [[TEXT]]))
        second = asyncio.create_task(queue.run(lambda: ran.append(True), [[TEXT]]))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert queue.wait_s == pytest.approx(1000 / 1e6)
        gate.set()
        await first
        assert queue.wait_s == 0
        assert ran == []

    asyncio.run(main())


def test_only_long_texts_are_worth_a_thread() -> None:
    async def main() -> None:
        queue = TextQueue("tokenize")
        own = threading.get_ident()
        assert await queue.run(threading.get_ident, [["a" * 999]]) == own
        assert await queue.run(threading.get_ident, [[TEXT]]) != own
        # Nobody knows how long work on no text, or on those of several users, takes.
        assert await queue.run(threading.get_ident, []) != own
        assert await queue.run(threading.get_ident, [["a"], ["b"]]) != own

    asyncio.run(main())


def test_work_that_fails_raises_and_leaves_the_queue() -> None:
    async def main() -> None:
        queue = TextQueue("tokenize")
        with pytest.raises(ZeroDivisionError):
            await queue.run(lambda: 1 / 0, [[TEXT]])
        assert queue.wait_s == 0

    asyncio.run(main())


def test_a_text_that_several_users_share_counts_once() -> None:
    async def main() -> None:
        queue, gate = TextQueue("tokenize"), threading.Event()
        task = asyncio.create_task(queue.run(lambda: gate.wait(10), [[TEXT, "b"], [TEXT], ["b"]]))
        await asyncio.sleep(0)
        assert queue.wait_s == pytest.approx(1001 / 1e6)
        gate.set()
        await task

    asyncio.run(main())
