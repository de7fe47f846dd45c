"""Following other processes in threads: a run, the machine, a captioner. Draws nothing."""
