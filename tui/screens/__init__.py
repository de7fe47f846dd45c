"""The screens: one a file, its .tcss beside it."""
