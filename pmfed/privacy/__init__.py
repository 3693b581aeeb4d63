"""The mechanism and its accounting: one frozen plan drives both."""
