"""What an out-of-memory is, the remedies, and which of them to try. Loads no torch."""
