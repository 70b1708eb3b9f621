"""What is fed in: data sets, their readers, transforms and loading."""
