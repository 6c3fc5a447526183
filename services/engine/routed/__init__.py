"""The routed engine: exact LoRA mixtures per request, continuously batched."""

from services.engine.routed.engine import RoutedEngine

__all__ = ["RoutedEngine"]
