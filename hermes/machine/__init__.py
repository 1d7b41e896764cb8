"""The machine that a run is on: device, memory, versions, signals, and a quiet Lightning."""
