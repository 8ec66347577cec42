// The trace of a queue call: taken from the application's own OpenTelemetry, handed on with the run, and exported without
// costing the application anything.

import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { queuePrefectFlow } from '@captionacc/orchestrator';
import { beforeEach, expect, test } from 'vitest';

import { afterTest, freshHome, someArguments, temporaryFolder } from './support/home.js';
import { root, runNode, Running } from './support/processes.js';
import { sql } from './support/queue-db.js';

/** Where OpenTelemetry's API keeps what is registered (its `internal/global-utils.ts`), and a context its span. */
const API = Symbol.for('opentelemetry.js.api.1');
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN');
const global = globalThis as unknown as Record<symbol, unknown>;

const traceId = '0af7651916cd43dd8448eb211c80319c';
const spanId = 'b7ad6b7169203331';

let home: string;
beforeEach(() => {
  home = freshHome();
  for (const name of Object.keys(process.env)) if (name.startsWith('OTEL_')) delete process.env[name];
  afterTest(() => delete global[API]);
});

/** Registers a context manager as an SDK does, in which this span is active. */
function within(span: unknown): void {
  const active = { getValue: (key: symbol) => (key === SPAN ? span : undefined) };
  global[API] = { version: '1.9.0', context: { active: () => active } };
}

const spanOf = (context: unknown) => ({ spanContext: () => context });

const stored = () => (sql(path.join(home, 'queue.db'), 'SELECT traceparent FROM flow_run') as { traceparent: string | null }[])[0]?.traceparent;

/** A collector that takes JSON, or never answers. Its address, and the spans of its next call. */
async function collector(answers: boolean): Promise<{ address: string; spans: Promise<Record<string, unknown>[]> }> {
  const server = createServer();
  const spans = (async () => {
    const [request, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse];
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += String(chunk);
    if (answers) response.end('{}');
    const { resourceSpans } = JSON.parse(text) as { resourceSpans: { scopeSpans: { spans: Record<string, unknown>[] }[] }[] };
    return resourceSpans.flatMap((resource) => resource.scopeSpans).flatMap((scope) => scope.spans);
  })();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  afterTest(() => {
    server.close();
    server.closeAllConnections();
  });
  return { address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans };
}

test('the span that the application is in goes with the run, also where nothing is exported', async () => {
  within(spanOf({ traceId, spanId, traceFlags: 1 }));
  await queuePrefectFlow('full-frames', someArguments());
  expect(stored()).toBe(`00-${traceId}-${spanId}-01`);
});

test.each([
  ['nothing is registered', undefined],
  ['no span is active', { context: { active: () => ({ getValue: () => undefined }) } }],
  ['the API is strange', { context: 7 }],
  ['the API throws', { context: { active: () => { throw new Error('strange'); } } }],
  ['the ids are none', { context: { active: () => ({ getValue: () => spanOf({ traceId: '0', spanId: {}, traceFlags: 'x' }) }) } }],
  ['the trace is no trace', { context: { active: () => ({ getValue: () => spanOf({ traceId: '0'.repeat(32), spanId, traceFlags: 1 }) }) } }],
])('a run is queued without a trace where %s', async (_, api) => {
  global[API] = api;
  await queuePrefectFlow('full-frames', someArguments());
  expect(stored()).toBeNull();
});

test('the call is a span of its own, below the one of the application', async () => {
  const { address, spans } = await collector(true);
  process.env.OTEL_EXPORTER_OTLP_ENDPOINT = address;
  process.env.OTEL_EXPORTER_OTLP_PROTOCOL = 'http/json';
  within(spanOf({ traceId, spanId, traceFlags: 1 }));
  const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
  const [span] = await spans;
  expect(span).toMatchObject({ name: 'queue full-frames', traceId, parentSpanId: spanId, kind: 4 });
  expect(span?.attributes).toContainEqual({ key: 'captionacc.flow_run_id', value: { stringValue: flowRunId } });
  expect(stored()).toBe(`00-${traceId}-${String(span?.spanId)}-01`);
});

/** A script of its own that queues a run, and ends as this says once that is done. */
function script(ending: string): string {
  const file = path.join(temporaryFolder(), 'script.mjs');
  const entry = JSON.stringify(pathToFileURL(path.join(root, 'index.mjs')).href);
  writeFileSync(
    file,
    `import { writeSync } from 'node:fs';
    import { queuePrefectFlow } from ${entry};
    const { flowRunId } = await queuePrefectFlow('full-frames', ${JSON.stringify(someArguments())});
    writeSync(1, flowRunId);
    ${ending}`,
  );
  return file;
}

const endings = [
  ['with its last line', '', 0],
  ['with process.exit', 'process.exit(0);', 0],
  ['with process.exit and a failure', 'process.exit(3);', 3],
  ['with an error', "throw new Error('of the script');", 1],
] as const;

test.each(endings)('the span of a script that ends right after its call %s reaches its collector', async (_, ending, code) => {
  const { address, spans } = await collector(true);
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: address, OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' };
  const ended = await new Running(process.execPath, [script(ending)], { env }).ended;
  expect(ended.code).toBe(code);
  const [span] = await spans;
  expect(span?.attributes).toContainEqual({ key: 'captionacc.flow_run_id', value: { stringValue: ended.stdout } });
});

test.each(endings)('a script that ends %s waits for no collector that is not there or never answers, and its call succeeds', async (_, ending, code) => {
  const hanging = await collector(false);
  const gone = createServer().listen(0, '127.0.0.1');
  await once(gone, 'listening');
  const { port } = gone.address() as AddressInfo;
  await once(gone.close(), 'close');
  for (const address of [hanging.address, `http://127.0.0.1:${port}`]) {
    // Longer than a test may take.
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: address, OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json', OTEL_EXPORTER_OTLP_TIMEOUT: '86400000' };
    const ended = await new Running(process.execPath, [script(ending)], { env }).ended;
    expect(ended.code).toBe(code);
    expect(ended.stdout).toMatch(/^[0-9a-f-]{36}$/);
  }
});

test('a collector that never answers keeps no process alive', async () => {
  const { address, spans } = await collector(false);
  const code = `require('@captionacc/orchestrator').queuePrefectFlow('full-frames', ${JSON.stringify(someArguments())})
    .then(() => new Promise((resolve) => setTimeout(resolve, 200))).then(() => console.log('queued'))`;
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: address, OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json', OTEL_EXPORTER_OTLP_TIMEOUT: '86400000' };
  const ended = await runNode(code, { env });
  expect(ended).toMatchObject({ code: 0, stdout: 'queued\n' });
  expect(await spans).toHaveLength(1);
});
