"""Similarity of samples to training images and prompts by models of the machine: a process of its own, which loads
torch; `engine.results.similarity` starts it. Nothing is downloaded."""
