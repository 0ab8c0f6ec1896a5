"""Videos: pictures that follow in time, read one by one from whatever they are stored in."""
