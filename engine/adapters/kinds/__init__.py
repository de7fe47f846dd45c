"""Kinds of adapter, one file each: LoRA, LoHa, LoKr and their relatives. `registry` has them all; none loads torch."""
