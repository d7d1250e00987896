"""The physical world: accelerators, power meters, telemetry."""
