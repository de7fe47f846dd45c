"""A family of its own, as a package brings one: the least that LoRA Smith asks for, and an example to begin with."""
