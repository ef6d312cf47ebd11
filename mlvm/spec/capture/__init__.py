"""Specs made of what is there already: lists of requirements, conda's environments, interpreters, notebooks.

Each reader takes what a lock can hold and says of the rest, line by line, why it was left out. None of them asks the
network: whether a version can be had, the lock finds out.
"""
