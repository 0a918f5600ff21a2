"""Small layers that several mixers and FFNs are made of."""
