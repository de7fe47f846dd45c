"""LoRA layers in a model, the file that they become, and the check of that file."""
