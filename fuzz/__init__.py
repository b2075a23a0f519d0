"""Fuzzing: the targets, the corpus of inputs, and the runs by atheris."""
