"""The ladder's stages on real models: what is counted, measured and trained of a candidate, and by which process."""
