"""The engine on a GPU: decode steps against the time that reading the weights takes, and exactness against PEFT.

Qwen3-VL-4B's shape with random weights in bfloat16. Needs no Ray and no network; `--device cpu --quick` runs the same
on a small shape, to see that it runs.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks.engines.device import copy_bandwidth, device_name
from benchmarks.engines.precision import Errors, precision
from benchmarks.engines.shapes import QWEN3_VL_4B, SMALL, random_model
from benchmarks.engines.steps import Steps
from benchmarks.reporting import Check, report

app = typer.Typer(add_completion=False)


@app.command()
def main(
    json: Annotated[Path | None, typer.Option(help="Write raw figures here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small shape and few steps.")] = False,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    context: Annotated[int, typer.Option(help="Tokens of every prompt.")] = 128,
) -> None:
    """Measure and hold the figures against the goals."""
    shape = SMALL if quick else QWEN3_VL_4B
    batches = (1, 4) if quick else (1, 8, 32, 64)
    errors = precision(shape, device)
    bandwidth = copy_bandwidth(device, 1 << (24 if quick else 31))
    steps = Steps(random_model(shape, device, torch.bfloat16), max(batches), context)
    ideal = steps.weight_bytes / bandwidth
    table = Table("batch", "none", "8 adapters", "÷ none", "weights alone", "÷ that", "with keys and values")
    checks = checks_of(errors)
    raw: dict[str, Any] = {}
    for batch in batches:
        base, lora = steps.measure(batch, adapters=False), steps.measure(batch, adapters=True)
        whole = ideal + steps.kv_bytes(batch) / bandwidth
        table.add_row(
            *(str(batch), f"{base * 1e3:.2f} ms", f"{lora * 1e3:.2f} ms", f"{lora / base:.3f}"),
            *(f"{ideal * 1e3:.2f} ms", f"{base / ideal:.2f}", f"{base / whole:.2f}"),
        )
        raw[str(batch)] = {"base_s": base, "lora_s": lora, "ideal_s": ideal, "ideal_with_kv_s": whole}
        checks += [
            Check(f"batch {batch}: step ÷ time to read the weights", base / ideal, "≤ 1.6", base / ideal <= 1.6),
            Check(f"batch {batch}: 8 adapters ÷ none", lora / base, "≤ 1.12", lora / base <= 1.12),
        ]
    figures = {"device": device_name(device), "bandwidth": bandwidth, "weight_bytes": steps.weight_bytes}
    figures |= {"context": context, "steps": raw, "errors": [error._asdict() for error in errors]}
    figures |= {"prefill_s": {str(tokens): steps.prefill(tokens) for tokens in ((64,) if quick else (512, 2048))}}
    report("gpu", table, checks, json, **figures)


def checks_of(errors: list[Errors]) -> list[Check]:
    """In float32 as exact as on a CPU, in bfloat16 no further from float32 than PEFT is."""
    worst = max(error.float32 for error in errors)
    ratio = max(error.ours / error.peft for error in errors)
    return [
        Check("float32: largest difference of a logit to PEFT", worst, "≤ 1e-4", worst <= 1e-4),
        Check("bfloat16: distance to float32 ÷ PEFT's", ratio, "≤ 1.25", ratio <= 1.25),
    ]


if __name__ == "__main__":
    app()
