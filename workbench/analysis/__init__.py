"""What is looked at: attention maps and statistics of runs."""
