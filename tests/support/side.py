"""A side of `bench cpu` without a process."""

import json
import queue
import threading

from blip2tools.cli.bench import cpu_side


class InThread:
    """A side in a thread of this process instead of a process of its own, which takes seconds to begin."""

    def __init__(self, asked):
        self._tasks, self._told = queue.Queue(), queue.Queue()
        serve = threading.Thread(target=cpu_side.serve, args=(asked, self._tasks.get, self._told.put))
        serve.start()
        self.start = self._told.get()
        self.close = lambda: (self._tasks.put(""), serve.join())

    def ask(self, case, seed=0, **more):
        self._tasks.put(json.dumps({"case": case, "seed": seed, **more}))
        return self._told.get()
