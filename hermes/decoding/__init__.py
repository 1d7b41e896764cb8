"""The decoder at work: reading chunks, observing attention, answering."""
