"""Many runs on a Ray cluster of which a node is lost: does every run end with a good file?

The program starts a cluster on this machine (a head without CPUs and two nodes), adds runs of the demo to a queue of
their own, starts it with --on, and kills a node as soon as a run there has passed its first saved state. Another node
joins then. At the end every file is inspected, and the journal shows what moved where.

    python benchmarks/ray_cluster.py [--runs 12] [--steps 12] [--keep DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.adapters.inspect import inspect_lora  # noqa: E402
from engine.queue import Queue, running, start_runner  # noqa: E402
from engine.queue.entry import FINISHED, RUNNING, Entry  # noqa: E402
from engine.runs import RunDir, read_events, true_state  # noqa: E402
from engine.runs.events import NoteEvent, SavedEvent  # noqa: E402
from engine.runs.resume import last_saved_step  # noqa: E402
from tui.setup.queueing import new_entries  # noqa: E402
from tui.text.queue import journal_line  # noqa: E402

STORE = 80 * 2**20
"""Bytes of each node's object store; the tasks pass paths only."""
LOOK_SECONDS = 0.5
PATIENCE = 3600.0


def cluster() -> Any:
    """A head without CPUs: nothing trains where the cluster's own records are."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    return Cluster(initialize_head=True, head_node_args=head)


def add_node(nodes: Any) -> Any:
    """A node with room for a run."""
    return nodes.add_node(num_cpus=1, object_store_memory=STORE)


def settings(steps: int) -> list[str]:
    """The demo, short: states every third of it, no samples and no measurements."""
    return [
        "training.num_processes=1", "training.validate_every_n_steps=none", f"training.max_train_steps={steps}",
        "training.max_check_share=0", "sampling.sample_every_n_steps=0", "saving.save_every_n_steps=none",
        f"saving.save_state_every_n_steps={max(1, steps // 3)}",
    ]  # fmt: skip


def is_past_a_state(entry: Entry, node: str) -> bool:
    """Whether a run trains on the node, beyond a state from which another node can continue."""
    run_dir = RunDir(Path(entry.run_dir))
    return (
        entry.state == RUNNING and entry.node.endswith(node) and true_state(run_dir).step > last_saved_step(run_dir) > 0
    )


def watch(queue: Queue, nodes: Any, doomed: Any) -> None:
    """Print the journal until the queue ends; kill the node when a run there is in the middle."""
    begun, killed = time.monotonic(), 0.0
    while running(queue) is not None:
        for line in queue.journal.poll():
            print(journal_line(line), flush=True)
        if not killed and any(is_past_a_state(entry, doomed.node_id[:8]) for entry in queue.entries()):
            killed = time.monotonic()
            print(f"--- node {doomed.node_id[:8]} is killed", flush=True)
            nodes.remove_node(doomed, allow_graceful=False)
            print(f"--- node {add_node(nodes).node_id[:8]} joins", flush=True)
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit("It takes too long.")
        time.sleep(LOOK_SECONDS)
    for line in queue.journal.poll():
        print(journal_line(line), flush=True)


def examine(entry: Entry) -> str:
    """What is wrong with an entry's file; empty where it is good."""
    run_dir = RunDir(Path(entry.run_dir))
    if entry.state != FINISHED:
        return f"{entry.state}: {entry.reason.message}"
    saved = [event for event in read_events(run_dir.events_path) if isinstance(event, SavedEvent)]
    if not saved or saved[-1].difference is None:
        return "its trainer has not verified it"
    problems = inspect_lora(run_dir.lora_path()).problems
    return "; ".join(map(str, problems))


def report(queue: Queue) -> int:
    """Print each run with its node, resumes and file; the number of files that are not good."""
    bad = 0
    for entry in sorted(queue.entries(), key=lambda entry: entry.id):
        run_dir = RunDir(Path(entry.run_dir))
        notes = [event.text for event in read_events(run_dir.events_path) if isinstance(event, NoteEvent)]
        resumed = [note for note in notes if note.startswith("Resumed at step")]
        problem = examine(entry)
        bad += bool(problem)
        size = run_dir.lora_path().stat().st_size if run_dir.lora_path().is_file() else 0
        words = [problem or "good", f"{size} bytes", f"on {entry.node}", *resumed]
        print(f"{entry.id}  {entry.name}: {', '.join(words)}")
    return bad


def main() -> int:
    """Run it; 0 where every file is good."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--keep", type=Path, help="the folder for the runs, which stays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.keep or Path(temporary)).absolute()
        queue = Queue(place / "queue")
        seeds = ",".join(str(seed) for seed in range(1, options.runs + 1))
        new, _ = new_entries(
            ["demo"], [f"training.seed={seeds}"], settings(options.steps), output_dir=str(place / "runs")
        )
        queue.add(new)
        nodes = cluster()
        try:
            kept, doomed = add_node(nodes), add_node(nodes)
            print(f"nodes {kept.node_id[:8]} and {doomed.node_id[:8]}", flush=True)
            begun = time.monotonic()
            start_runner(queue, cluster=nodes.address)
            watch(queue, nodes, doomed)
            print(f"--- {time.monotonic() - begun:.0f} s")
        finally:
            nodes.shutdown()
        bad = report(queue)
        print(f"{options.runs - bad} of {options.runs} files are good")
        return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
