"""Pictures and captions: finding them, sorting them into buckets, counting steps, batches, caches.

All but `pixels`, `resampling`, `store`, `latents`, `text_cache` and `report` load neither torch nor numpy, and those
only in use.
"""
