"""Models on images: what is measured, kept and told of each."""
