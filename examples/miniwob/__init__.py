"""A small Qwen3-VL and its LoRA adapters for one-click MiniWoB++ screens, with the scripts that make them."""
