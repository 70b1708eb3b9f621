"""What computes: SAM's parts, text encoders and the fusion between them."""
