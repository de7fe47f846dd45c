"""Model families, one folder each with everything specific to it."""
