"""What a run leaves: typed records and keys, run folders, frames of results, and where a result comes from."""
