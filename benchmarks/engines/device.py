"""What the device itself can do."""

import time
from collections.abc import Callable
from statistics import median

import torch


def device_name(device: str) -> str:
    """The card's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def synchronize(device: str | torch.device) -> None:
    """Wait for what the device has been asked."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str | torch.device, *, warm: int = 3, times: int = 20) -> float:
    """The median time of `run`, its work on the device included."""
    taken = []
    for number in range(warm + times):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if number >= warm:
            taken.append(time.perf_counter() - start)
    return median(taken)


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes read and written in a second by a copy of `size` bytes of random numbers."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)
