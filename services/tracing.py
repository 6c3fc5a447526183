"""OpenTelemetry spans along a request. Without a tracer provider, which Serve sets, they cost next to nothing."""

from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

tracer = trace.get_tracer("pointsman")


def otlp() -> "list[SpanProcessor]":
    """Serve's exporter for `telemetry.traces` = otlp: over HTTP, as the `OTEL_EXPORTER_OTLP_*` environment says."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
