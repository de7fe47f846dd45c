"""Images and captions: scanning folders, aspect buckets, step counts, batches, caches.

Only `pixels`, `resampling`, `store`, `latents`, `text_cache` and `report` load torch or numpy, and only when used.
"""
