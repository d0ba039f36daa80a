"""Low-rank adapters (LoRA): add them, choose, merge, remove, save and load them."""
