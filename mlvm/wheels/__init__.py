"""Wheels from sources: built once, in a throw-away machine, the same bits wherever the lock is used."""
