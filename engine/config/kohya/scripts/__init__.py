"""Shell, batch and PowerShell files that call Kohya's scripts: one reader a language, and nothing is run."""
