"""Following what goes on elsewhere, in threads: a run, the machine, a captioner. Draws nothing."""
