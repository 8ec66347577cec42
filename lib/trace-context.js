'use strict';

/** Where every copy of OpenTelemetry's API finds what the application has registered. */
const API = Symbol.for('opentelemetry.js.api.1');
/** Where a context keeps its span: `createContextKey` of OpenTelemetry's API is `Symbol.for`. */
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN');

/**
 * The span that the application is in, as a W3C traceparent; undefined without OpenTelemetry, outside a span, or if what is
 * registered is not what it should be: a queue call never fails because of its trace.
 */
function traceparent() {
  try {
    const span = globalThis[API]?.context?.active().getValue(SPAN);
    const { traceId, spanId, traceFlags } = span.spanContext();
    const flags = (traceFlags & 1).toString(16).padStart(2, '0');
    const text = `00-${traceId}-${spanId}-${flags}`;
    return /^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/.test(text) ? text : undefined;
  } catch {
    return undefined;
  }
}

exports.traceparent = traceparent;
