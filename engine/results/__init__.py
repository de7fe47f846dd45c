"""How good a run's files are, and how to use them: measures, verdicts, comparison, reports, trying a file, training on
from one. Loads no torch."""
