"""What makes one pair of language model and diffusion transformer differ from another, as records of data."""
