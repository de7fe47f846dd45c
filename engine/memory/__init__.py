"""Memory: what went wrong when it ran out, and what can be done about it."""
