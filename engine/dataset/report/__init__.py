"""The dataset report: what is wrong with a folder of pictures, told before an hour of training is spent on it.

`checking.check` goes through everything: `measures` takes from each picture once what the checks need (in processes,
kept in `shelf`), and each module named after a group of findings looks at the whole. `python -m engine.dataset.report`
is the process in which it runs; `process` starts it. None of it loads torch.
"""
