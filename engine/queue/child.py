"""A trainer that ends with its parent: `python -m engine.queue.child RUN_DIR`.

On a Ray cluster the parent is a task's worker process. When that is killed, or its node is lost, the run must end too:
it is continued elsewhere. A trainer on the person's own machine outlives whatever started it.
"""

from __future__ import annotations

import runpy

from engine.processes import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("engine.training", run_name="__main__", alter_sys=True)
