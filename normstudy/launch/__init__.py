"""Decides what is left to train, and has it trained: here, or on a cluster."""
