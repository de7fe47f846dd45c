"""What a person touches: shell commands and screens. Imports no torch: a run is another process."""
