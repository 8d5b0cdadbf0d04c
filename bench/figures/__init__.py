"""The measurements, by what they measure."""
