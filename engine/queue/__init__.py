"""Many runs: a directory of entries, and the process that starts them one after the other. Imports no torch.

The directory is the only truth: a small file for each entry, its configuration beside it, and a journal. The process
(`engine.queue.runner`) starts trainers as the shell does, each in a session of its own, and reads how they are from
their run directories; killed, it is started again and takes them over.
"""

from engine.queue.entry import Entry, Reason
from engine.queue.process import Runner, running, start_runner
from engine.queue.store import Queue, queue_directory

__all__ = ["Entry", "Queue", "Reason", "Runner", "queue_directory", "running", "start_runner"]
