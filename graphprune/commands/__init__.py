"""The commands of the command line, one a file; `graphprune.cli` lists them.

A command imports what it needs when it runs, so that `--help` answers at once.
"""
