"""Models on the Hugging Face hub: which of their files are needed, and how they come into the local cache."""
