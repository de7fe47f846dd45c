"""Generates images with LoRA files outside a run, in a process of its own, which loads torch and is started by
`engine.results.trying`."""
