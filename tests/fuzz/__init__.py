"""Tests of the fuzzing."""
