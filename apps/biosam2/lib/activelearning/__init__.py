"""Which case is labelled next: what is known of each image, and the strategies that choose by it."""
