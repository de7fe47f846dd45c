"""The screens: one per file, its .tcss next to it."""
