"""From hidden states to an image and its recipe: memory, LoRA, schedule, and diffusers' DiT and VAE."""
