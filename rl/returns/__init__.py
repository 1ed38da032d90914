"""Dense rewards of recorded episodes, and their discounted returns: what a value expert learns to predict (WAV)."""
