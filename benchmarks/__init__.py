"""What an epoch, a run, a study and a report cost, against the bare limit, the usual loop and PyTorch Lightning."""
