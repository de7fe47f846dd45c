"""Memory: what went wrong when it ran out."""
