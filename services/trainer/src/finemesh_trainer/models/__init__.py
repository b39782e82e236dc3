"""What is trained: the encoder with its two heads, the cross-encoder, and low-rank adapters over both."""
