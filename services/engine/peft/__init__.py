"""An engine on PEFT's mixed batches: static batches, one adapter a row, all adapters resident."""

from services.engine.peft.engine import PeftEngine

__all__ = ["PeftEngine"]
