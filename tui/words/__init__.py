"""What the screens say, as functions that draw nothing."""
