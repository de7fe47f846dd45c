"""The dataset report: problems of a folder of images, reported before training.

`checking.check` runs it: `measuring` measures each image once (in processes, cached by `measure_cache`), and each
module named after a group of findings checks the complete dataset. `python -m engine.dataset.report` is its process;
`process` starts it. Nothing here loads torch.
"""
