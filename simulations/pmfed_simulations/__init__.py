"""One machine: virtual hospitals, public data, and the same apps without a network."""
