"""How long an epoch takes, against the bare limit, the usual loop and PyTorch Lightning; what tracking costs."""
