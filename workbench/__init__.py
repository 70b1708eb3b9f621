"""Workbench for Deep Instruction Tuning of Segment Anything."""
