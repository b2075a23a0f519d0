"""Fuzzing: targets that anything may be thrown at, the inputs that are kept, and the run by atheris."""
