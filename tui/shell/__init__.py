"""Starting runs, following them in the foreground, and printing in the shell."""
