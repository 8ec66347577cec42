/**
 * What the Prefect benchmark measures against: a client that does nothing but its calls, a proxy that counts, Prefect's
 * own worker and `serve`.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { Agent, createServer, request } from 'node:http';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import { binary, output, root, startProgram } from './harness.mjs';

const FINAL = new Set(['COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED']);
/** Nothing takes longer unless it hangs. */
const PATIENCE_MS = 120_000;

/** The folder of the environment that `scripts/prefect-env.sh` has made. */
const prefectBin = () => dirname(process.env.CAPTIONACC_BENCH_PREFECT);

/** A client of Prefect's API over keep-alive connections: the least that a call can cost. */
export class Api {
  constructor(address, connections = 1) {
    this.address = address;
    this.agent = new Agent({ keepAlive: true, maxSockets: connections });
  }

  /** One request: `{ status, body }`. Rejects where the connection is lost. */
  ask(method, path, body) {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers =
      text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    return new Promise((settle, fail) => {
      const asked = request(`${this.address}${path}`, { method, headers, agent: this.agent }, (answer) => {
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.once('error', fail);
        answer.once('end', () => {
          const said = Buffer.concat(parts).toString();
          settle({ status: answer.statusCode, body: said && JSON.parse(said) });
        });
      });
      asked.once('error', fail);
      asked.end(text);
    });
  }

  /** The body of the answer. A server whose SQLite was locked is asked again at once, as ours does. */
  async call(method, path, body) {
    for (let tries = 1; ; tries += 1) {
      const answer = await this.ask(method, path, body).catch((error) => ({ status: 0, body: error.message }));
      if (answer.status >= 200 && answer.status < 300) return answer.body;
      if (tries === 50 || (answer.status !== 0 && answer.status !== 503)) {
        throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
      }
      await passing(5);
    }
  }

  /** Queues a run of a deployment. */
  create(deployment, parameters, more = {}) {
    const body = { parameters, idempotency_key: randomUUID(), ...more };
    return this.call('POST', `/deployments/${deployment}/create_flow_run`, body);
  }

  /** The id of the deployment `flow/name`. */
  async deployment(flow, name) {
    return (await this.call('GET', `/deployments/name/${flow}/${name}`)).id;
  }

  /** Waits until the run's state is of one of these types, final ones unless given; the run. */
  async wait(id, types = FINAL, everyMs = 100) {
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const run = await this.call('GET', `/flow_runs/${id}`);
      if (types.has(run.state_type)) return run;
      if (performance.now() > deadline || FINAL.has(run.state_type)) {
        throw new Error(`flow run ${id} is ${run.state_type}: ${run.state?.message}`);
      }
      await passing(everyMs);
    }
  }

  close() {
    this.agent.destroy();
  }
}

/** A proxy in front of an API that notes every request and the connection that it came over. */
export async function countingProxy(address) {
  const upstream = new URL(address);
  const agent = new Agent({ keepAlive: true });
  const websockets = new Set();
  let [connections, seen] = [0, []];
  const kept = (headers) =>
    Object.fromEntries(
      Object.entries(headers).filter(([name]) => !['connection', 'keep-alive', 'transfer-encoding'].includes(name)),
    );
  const server = createServer((incoming, answer) => {
    seen.push({ connection: incoming.socket.number, call: `${incoming.method} ${incoming.url.split('?')[0]}` });
    const { hostname, port } = upstream;
    const options = { hostname, port, path: incoming.url, method: incoming.method, headers: kept(incoming.headers), agent };
    const outgoing = request(options, (got) => {
      answer.writeHead(got.statusCode, kept(got.headers));
      got.pipe(answer);
    });
    outgoing.once('error', () => answer.destroy());
    incoming.pipe(outgoing);
  });
  // As uvicorn does.
  server.keepAliveTimeout = 5000;
  server.on('connection', (socket) => {
    connections += 1;
    socket.number = connections;
  });
  server.on('upgrade', (incoming, socket, head) => {
    seen.push({ connection: socket.number, isWebsocket: true, call: `websocket ${incoming.url}` });
    websockets.add(socket.number);
    const outgoing = connect(upstream.port, upstream.hostname, () => {
      const headers = incoming.rawHeaders.reduce((text, part, at) => text + part + (at % 2 === 0 ? ': ' : '\r\n'), '');
      outgoing.write(`GET ${incoming.url} HTTP/1.1\r\n${headers}\r\n`);
      outgoing.write(head);
      outgoing.pipe(socket).pipe(outgoing);
    });
    for (const end of [socket, outgoing]) {
      end.once('error', () => end.destroy());
      end.once('close', () => {
        websockets.delete(socket.number);
        socket.destroy();
        outgoing.destroy();
      });
    }
  });
  await new Promise((settle) => server.listen(0, '127.0.0.1', settle));
  return {
    address: `http://127.0.0.1:${server.address().port}${upstream.pathname}`,
    forget() {
      seen = [];
    },
    /** Since `forget`: requests, websockets opened, and connections that carried either or are open websockets. */
    counted() {
      const used = new Set([...seen.map(({ connection }) => connection), ...websockets]);
      const requests = seen.filter(({ isWebsocket }) => !isWebsocket);
      return {
        requests: requests.length,
        websockets: seen.length - requests.length,
        connections: used.size,
        calls: seen.map(({ call }) => call.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, 'ID')),
      };
    },
    close() {
      server.closeAllConnections();
      server.close();
      agent.destroy();
    },
  };
}

/** What a program of Prefect is started with: nothing of this machine's own settings. */
const prefectEnvironment = (address, folder) => ({
  PATH: `${prefectBin()}:${process.env.PATH}`,
  HOME: folder,
  PREFECT_HOME: join(folder, 'prefect'),
  PREFECT_API_URL: address,
  DO_NOT_TRACK: '1',
  PYTHONUNBUFFERED: '1',
  NO_COLOR: '1',
  COLUMNS: '500',
});

/** Prefect's own process worker, as it is installed. */
export const startStockWorker = (address, folder, pool) =>
  startProgram(join(prefectBin(), 'prefect'), ['worker', 'start', '--type', 'process', '--pool', pool], {
    until: 'started!',
    env: prefectEnvironment(address, folder),
    cwd: folder,
  });

/** The flows of `prefect_flows.py`, served. */
export const startServe = (address, folder, name) =>
  startProgram(join(prefectBin(), 'python'), [join(root, 'bench/python/prefect_flows.py'), name], {
    until: 'polling for scheduled runs',
    env: prefectEnvironment(address, folder),
    cwd: folder,
  });

/** Registers the flow of `prefect_flows.py` for Prefect's own worker, with a pool of its own; the deployment's id. */
export async function registerStock(api, name) {
  const template = JSON.parse(readFileSync(join(root, 'src/cli/process_job_template.json'), 'utf8'));
  await api.call('POST', '/work_pools/', { name, type: 'process', base_job_template: template });
  const flow = await api.call('POST', '/flows/', { name: 'first-instruction-python' });
  const made = await api.call('POST', '/deployments/', {
    name,
    flow_id: flow.id,
    work_pool_name: name,
    entrypoint: 'prefect_flows.py:first_instruction',
    path: join(root, 'bench/python'),
    job_variables: { working_dir: join(root, 'bench/python') },
    parameter_openapi_schema: { type: 'object', properties: {} },
  });
  return made.id;
}

/** Sets our pool and deployments up at a server, with our own commands. */
export async function setUp(address, env) {
  await output(binary, ['setup', '--orchestrator', 'server', '--api-url', address], { env });
  await output(binary, ['deploy'], { env });
}

/** Processes below this one. */
function descendants(pid) {
  const parents = new Map();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
      parents.set(Number(name), parent);
    } catch {
      // It has ended.
    }
  }
  const found = [];
  for (const [child, parent] of parents) {
    for (let at = parent; at; at = parents.get(at)) {
      if (at === pid) {
        found.push(child);
        break;
      }
    }
  }
  return found;
}

/** Waits until the process of an ended run is gone: only then its worker's CPU time has it. */
export async function gone(run) {
  const deadline = performance.now() + PATIENCE_MS;
  while (run.infrastructure_pid && existsSync(`/proc/${run.infrastructure_pid}`)) {
    if (performance.now() > deadline) throw new Error(`process ${run.infrastructure_pid} of an ended run does not end`);
    await passing(20);
  }
}

/** Memory of all processes below this one, in MB (10^6 bytes). */
export function memoryBelow(pid) {
  const kilobytes = descendants(pid).map((child) => {
    try {
      const status = readFileSync(`/proc/${child}/status`, 'utf8');
      return Number(status.match(/^VmRSS:\s+(\d+) kB/m)?.[1] ?? 0);
    } catch {
      return 0;
    }
  });
  return (kilobytes.reduce((sum, value) => sum + value, 0) * 1024) / 1e6;
}

/** Runs callers.mjs with a Prefect server of its own: `{ created, failed, perSecond, latenciesMs }`. */
export async function callers(database, side, count, seconds, env) {
  const server = [join(root, 'scripts/with-prefect.sh'), ...(database === 'PostgreSQL' ? ['--on-postgresql'] : [])];
  const program = [process.execPath, join(root, 'bench/lib/callers.mjs'), side, String(count), String(seconds)];
  return JSON.parse(await output('bash', [...server, ...program], { env }));
}

/** `queue_flow.py`: the program that imports Prefect and queues. */
export const queueWithProgram = (address, folder, args) =>
  output(process.env.CAPTIONACC_BENCH_PREFECT, [join(root, 'bench/python/queue_flow.py'), ...args], {
    env: prefectEnvironment(address, folder),
    cwd: folder,
  });
