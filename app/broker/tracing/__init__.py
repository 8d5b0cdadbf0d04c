"""Traces by OpenTelemetry. Only servers that send traces import `tracer`."""
