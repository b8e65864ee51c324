"""Passes: one verb a file, in the order lift, couple, score, select, narrow, verify, lower."""
