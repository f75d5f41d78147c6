"""The embedded checkpoint: the world it draws, its training and its evaluation."""
