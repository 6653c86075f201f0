"""One thread for torch: two test processes that each take every core wait for each other."""

try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)
