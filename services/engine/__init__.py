"""Qwen3-VL with LoRA adapters chosen per request. Imports neither Ray nor HTTP."""
