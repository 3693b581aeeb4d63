"""Public networks in front of what a study trains: weights checked and read without running anything, features."""
