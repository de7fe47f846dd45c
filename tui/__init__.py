"""The user interface: shell commands and screens. Imports no torch: a run is another process."""
