"""LoRA adapters: which there are and what they weigh. Imports neither Ray nor HTTP."""
