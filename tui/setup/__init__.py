"""Setting up a run, for the shell and the wizard: entries, configuration, forecast, checks. Draws nothing."""
