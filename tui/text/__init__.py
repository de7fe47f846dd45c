"""The texts of the screens, as functions that draw nothing."""
