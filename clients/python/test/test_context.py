"""The context belongs to a thread and an asynchronous task, and to no other."""

import asyncio
import contextvars
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

import bemi


class ContextTest(unittest.TestCase):
    def setUp(self):
        bemi.set_context(None)

    def test_blocks(self):
        self.assertIsNone(bemi.current_context())
        with bemi.with_context({'a': 1}):
            self.assertEqual(bemi.current_context(), {'a': 1})
            with bemi.with_context({'b': 2}):
                self.assertEqual(bemi.current_context(), {'b': 2})
            with bemi.with_context(None):
                self.assertIsNone(bemi.current_context())
            self.assertEqual(bemi.current_context(), {'a': 1})
        self.assertIsNone(bemi.current_context())

    def test_an_error_ends_the_block(self):
        with self.assertRaises(ZeroDivisionError), bemi.with_context({'a': 1}):
            1 / 0
        self.assertIsNone(bemi.current_context())

    def test_from_here_on(self):
        bemi.set_context({'a': 1, 'b': 2})
        bemi.merge_context({'b': 3, 'c': 4})
        self.assertEqual(bemi.current_context(), {'a': 1, 'b': 3, 'c': 4})
        bemi.merge_context(None)
        self.assertEqual(bemi.current_context(), {'a': 1, 'b': 3, 'c': 4})
        bemi.set_context(None)
        self.assertIsNone(bemi.current_context())
        bemi.merge_context({'d': 5})
        self.assertEqual(bemi.current_context(), {'d': 5})

    def test_a_block_ends_what_was_set_within(self):
        bemi.set_context({'a': 1})
        with bemi.with_context({'b': 2}):
            bemi.merge_context({'c': 3})
            with bemi.with_context({'d': 4}):
                bemi.set_context({'e': 5})
            self.assertEqual(bemi.current_context(), {'b': 2, 'c': 3})
        self.assertEqual(bemi.current_context(), {'a': 1})

    def test_the_object_is_written_once(self):
        context = {'a': [1]}
        with bemi.with_context(context):
            context['a'].append(2)
            self.assertEqual(bemi.current_context(), {'a': [1]})

    def test_one_block_several_times(self):
        block = bemi.with_context({'a': 1})
        with block, block:
            self.assertEqual(bemi.current_context(), {'a': 1})
        self.assertIsNone(bemi.current_context())
        seen = []

        def work():
            with block:
                seen.append(bemi.current_context())
            seen.append(bemi.current_context())

        with block:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            self.assertEqual(bemi.current_context(), {'a': 1})
        self.assertEqual(seen, [{'a': 1}, None])

    def test_decorated_functions(self):
        @bemi.with_context({'job': 'nightly'})
        def job(n, *, m):
            "A job."
            return bemi.current_context(), n, m

        @bemi.with_context({'job': 'nightly'})
        async def async_job(n):
            await asyncio.sleep(0)
            return bemi.current_context(), n

        self.assertEqual(job(1, m=2), ({'job': 'nightly'}, 1, 2))
        self.assertEqual((job.__name__, job.__doc__), ('job', 'A job.'))
        self.assertEqual(asyncio.run(async_job(3)), ({'job': 'nightly'}, 3))
        self.assertTrue(asyncio.iscoroutinefunction(async_job))
        self.assertIsNone(bemi.current_context())

    def test_generators_are_refused(self):
        def generator():
            yield 1

        async def async_generator():
            yield 1

        for function in (generator, async_generator):
            with self.assertRaisesRegex(TypeError, 'cannot decorate a generator'):
                bemi.with_context({})(function)

    def test_a_block_that_ends_in_another_context(self):
        def generator():
            with bemi.with_context({'a': 1}):
                yield

        steps = generator()
        contextvars.copy_context().run(next, steps)
        with bemi.with_context({'b': 2}):
            self.assertEqual(list(steps), [])
            self.assertEqual(bemi.current_context(), {'b': 2})
        self.assertIsNone(bemi.current_context())

    def test_threads(self):
        with bemi.with_context({'a': 1}), ThreadPoolExecutor(1) as pool:
            self.assertIsNone(pool.submit(bemi.current_context).result())
            self.assertEqual(pool.submit(contextvars.copy_context().run, bemi.current_context).result(), {'a': 1})

    def test_tasks(self):
        async def work(i):
            with bemi.with_context({'i': i}):
                await asyncio.sleep(0.001 * (i % 3))
                bemi.merge_context({'j': i})
                await asyncio.sleep(0)
                in_thread = await asyncio.to_thread(bemi.current_context)
                return in_thread, bemi.current_context()

        async def main():
            return await asyncio.gather(*(work(i) for i in range(50)))

        for i, (in_thread, here) in enumerate(asyncio.run(main())):
            self.assertEqual(in_thread, {'i': i, 'j': i})
            self.assertEqual(here, {'i': i, 'j': i})

    def test_a_task_inherits_and_does_not_give_back(self):
        async def work():
            inherited = bemi.current_context()
            bemi.set_context({'b': 2})
            return inherited

        async def main():
            with bemi.with_context({'a': 1}):
                inherited = await asyncio.create_task(work())
                return inherited, bemi.current_context()

        self.assertEqual(asyncio.run(main()), ({'a': 1}, {'a': 1}))
