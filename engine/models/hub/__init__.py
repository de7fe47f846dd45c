"""Models on the Hugging Face hub: which of their files are needed, and their download into the local cache."""
