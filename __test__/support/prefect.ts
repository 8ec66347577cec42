// A real Prefect server, a user who is set up for it, and the wire between them, which a test can cut.

import { spawn, execFileSync, type ChildProcess } from 'node:child_process';
import { copyFileSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net, { type AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';

import { expect } from 'vitest';

import { afterTest, freshHome, temporaryFolder } from './home.js';
import { root, Running } from './processes.js';

/** The server that the test run shares, as scripts/with-prefect.sh tells it. */
const shared = process.env.CAPTIONACC_TEST_PREFECT_API_URL;

/** A Prefect server on loopback. */
export class PrefectServer {
  readonly apiUrl: string;
  readonly #stop: () => void;

  private constructor(apiUrl: string, stop: () => void) {
    this.apiUrl = apiUrl;
    this.#stop = stop;
  }

  /** The server of the test run, or one of its own where none is: use names that no other test uses. */
  static async shared(): Promise<PrefectServer> {
    return shared === undefined ? PrefectServer.start() : new PrefectServer(shared, () => {});
  }

  /** A server with these settings, from the environment that scripts/prefect-env.sh makes. */
  static async start(settings: Record<string, string> = {}): Promise<PrefectServer> {
    const environment = execFileSync('bash', ['scripts/prefect-env.sh'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    }).trim();
    const home = mkdtempSync(path.join(os.tmpdir(), 'captionacc-prefect-'));
    copyFileSync(path.join(environment, 'template/prefect.db'), path.join(home, 'prefect.db'));
    const port = await freePort();
    const log = path.join(home, 'server.log');
    const output = openSync(log, 'w');
    const program = path.join(environment, 'bin/prefect');
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, 'server', 'start', '--no-ui', '--port', String(port)], {
      cwd: home,
      env: { PATH: process.env.PATH ?? '', HOME: home, PREFECT_HOME: home, DO_NOT_TRACK: '1', PREFECT_SERVER_ANALYTICS_ENABLED: 'false', ...settings },
      stdio: ['ignore', output, output],
      detached: true,
    });
    // Nothing tells when the server listens but the server itself.
    while (!(await isHealthy(port))) {
      if (child.exitCode !== null) throw new Error(`the Prefect server did not start: ${readFileSync(log, 'utf8')}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return new PrefectServer(`http://127.0.0.1:${port}/api`, () => {
      killGroup(child);
      rmSync(home, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    });
  }

  /** Kills it, if it is not the shared one. */
  stop(): void {
    this.#stop();
  }

  /** What the server itself says: the answer of its REST API. */
  async ask<Answer>(method: 'GET' | 'POST' | 'PATCH', call: string, body?: unknown): Promise<Answer> {
    const response = await fetch(`${this.apiUrl}${call}`, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    });
    expect(response.ok, `${method} ${call}: ${response.status}`).toBe(true);
    return (response.status === 204 ? undefined : await response.json()) as Answer;
  }
}

function killGroup(child: ChildProcess): void {
  try {
    process.kill(-(child.pid ?? 0), 'SIGKILL');
  } catch {
    // It has gone.
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function isHealthy(port: number): Promise<boolean> {
  return fetch(`http://127.0.0.1:${port}/api/health`, { signal: AbortSignal.timeout(2000) }).then(
    ({ ok }) => ok,
    () => false,
  );
}

/**
 * Makes the current test a user of Prefect: a home of its own, a pool and deployments that no other test has. Returns
 * the home and the name of pool and deployments.
 */
export function freshPrefectUser(): { home: string; name: string } {
  const home = freshHome();
  const name = `test-${path.basename(temporaryFolder())}`;
  delete process.env.CAPTIONACC_ORCHESTRATOR;
  process.env.PREFECT_HOME = path.join(home, 'prefect-home');
  process.env.CAPTIONACC_WORK_POOL = name;
  process.env.CAPTIONACC_DEPLOYMENT = name;
  return { home, name };
}

/** Runs a command of `captionacc` that succeeds, and returns what it prints. */
export async function captionacc(...given: string[]): Promise<string> {
  const ended = await new Running(path.join(root, 'dist/captionacc'), given).ended;
  expect(ended, given.join(' ')).toMatchObject({ code: 0 });
  return ended.stdout;
}

/** `captionacc setup` and `captionacc deploy` as a script would call them, with flows that `toml` declares. */
export async function setUp(apiUrl: string, home: string, toml = ''): Promise<void> {
  await captionacc('setup', '--orchestrator', 'server', '--api-url', apiUrl);
  const file = path.join(home, 'captionacc.toml');
  writeFileSync(file, `${readFileSync(file, 'utf8')}\n${toml}`);
  await captionacc('deploy');
}

/** What can befall a wire: connections are refused; nobody answers; runs are created and the answer is lost. */
export type Fault = 'cut' | 'stall' | 'lose-answers-of-creates';

/** A reverse proxy in front of a server that plays what networks do. */
export class Wire {
  #fault: Fault | undefined;
  readonly #server: http.Server;
  readonly #upgraded = new Set<net.Socket>();
  #port = 0;

  private constructor(upstream: URL) {
    this.#server = http.createServer((request, response) => {
      if (this.#fault === 'stall') return;
      const losesAnswer = this.#fault === 'lose-answers-of-creates' && (request.url ?? '').endsWith('/create_flow_run');
      const passed = http.request(
        { host: upstream.hostname, port: upstream.port, path: request.url, method: request.method, headers: request.headers },
        (answer) => {
          if (losesAnswer) {
            answer.resume().once('end', () => request.socket.destroy());
            return;
          }
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.on('data', (chunk: Buffer) => {
            if (this.#fault !== 'stall') response.write(chunk);
          });
          answer.once('end', () => response.end());
        },
      );
      passed.once('error', () => request.socket.destroy());
      request.pipe(passed);
    });
    this.#server.on('upgrade', (request: http.IncomingMessage, client: net.Socket) => {
      const headers = Object.entries(request.headers).map(([header, value]) => `${header}: ${String(value)}\r\n`);
      const passed = net.connect(Number(upstream.port), upstream.hostname);
      passed.write(`GET ${request.url} HTTP/1.1\r\n${headers.join('')}\r\n`);
      client.pipe(passed).pipe(client);
      for (const [one, other] of [[client, passed], [passed, client]] as const) {
        one.once('error', () => other.destroy()).once('close', () => other.destroy());
      }
      this.#upgraded.add(client);
    });
  }

  static async to(server: { readonly apiUrl: string }): Promise<Wire> {
    const wire = new Wire(new URL(server.apiUrl));
    await wire.mend();
    afterTest(() => wire.play('cut'));
    return wire;
  }

  get apiUrl(): string {
    return `http://127.0.0.1:${this.#port}/api`;
  }

  /** From now on, this happens. */
  play(fault: Fault): void {
    this.#fault = fault;
    if (fault !== 'cut') return;
    this.#server.close();
    this.#server.closeAllConnections();
    for (const socket of this.#upgraded) socket.destroy();
    this.#upgraded.clear();
  }

  /** Everything passes again. */
  async mend(): Promise<void> {
    this.#fault = undefined;
    if (this.#server.listening) return;
    const listening = new Promise((resolve) => this.#server.once('listening', resolve));
    this.#server.listen(this.#port, '127.0.0.1');
    await listening;
    this.#port = (this.#server.address() as AddressInfo).port;
  }
}
