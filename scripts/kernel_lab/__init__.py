"""What the scripts about kernels share: problems with right answers, their cost, the tuner and its processes."""
