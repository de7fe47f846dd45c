"""The exit codes of every LoRA Smith process; the table in docs/command-line.md is checked against this enum."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees. Scripts rely on these numbers."""

    DONE = 0
    """Everything asked for was done."""
    TRAINING_FAILED = 1
    """The training itself failed: a non-finite loss that did not recover, or an unexpected error."""
    USAGE = 2
    """Wrong use: unknown option, preset or key, a value out of range, an impossible combination."""
    BAD_DATA = 3
    """Images, captions or model files are missing, broken or of the wrong kind."""
    OUT_OF_MEMORY = 4
    """Out of memory, and no remedy is left."""
    NO_SPACE = 5
    """No space on the device, or no permission."""
    STOPPED = 6
    """Stopped on request, with everything saved; `lorasmith resume` continues."""
    INTERRUPTED = 130
    """A second SIGINT: ended at once; `lorasmith resume` continues from the last saved state."""
    TERMINATED = 143
    """A second SIGTERM: ended at once; `lorasmith resume` continues from the last saved state."""
