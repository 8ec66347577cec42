// A machine on which nothing is installed: Debian 11 with its C library of 2020, Node and npm, no network, no disk but the
// memory's. It is a group of namespaces, and it is gone, with its mounts, processes and files, when its first process is.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';

import { root, Running, type Ended } from './processes.js';

const execute = promisify(execFile);

/** The machine's first process: it adopts who loses its parent, and ends with the pipe that its maker holds. */
const boot = `
  set -euo pipefail
  ip link set lo up
  mount --bind "$1" "$1"
  mount -o remount,bind,ro "$1"
  mount -t proc proc "$1/proc"
  mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
  mount -t tmpfs -o mode=755 tmpfs "$1/srv"
  exec chroot "$1" /bin/bash -c 'echo up; while read -r; do :; done'`;

export class Machine {
  /** Its /srv, which is all that can be written but /tmp, as this side sees it. Files are copied in and out, not opened. */
  readonly srv: string;
  readonly #namespaces: ChildProcess;
  readonly #root: string;
  /** Its first process, as this side counts. */
  readonly #first: number;

  private constructor(namespaces: ChildProcess, machineRoot: string) {
    this.#namespaces = namespaces;
    this.#root = machineRoot;
    [this.#first = 0] = childrenOf(namespaces.pid ?? 0);
    this.srv = `/proc/${this.#first}/root/srv`;
  }

  /** Makes its root if there is none yet, which takes a minute. */
  static async start(): Promise<Machine> {
    const { stdout } = await execute('bash', ['scripts/bare-root.sh'], { cwd: root });
    const machineRoot = stdout.trim();
    const given = ['--mount', '--pid', '--net', '--fork', '--kill-child', 'bash', '-c', boot, 'boot', machineRoot];
    const namespaces = spawn('unshare', given, { stdio: ['pipe', 'pipe', 'inherit'] });
    const [said] = (await Promise.race([once(namespaces.stdout, 'data'), once(namespaces, 'close')])) as unknown[];
    if (String(said) !== 'up\n') throw new Error(`the machine did not start (${String(said)}): namespaces and mounts are needed`);
    return new Machine(namespaces, machineRoot);
  }

  /** Starts a program on it, in a folder below /srv, with nothing of this side's environment. */
  start(folder: string, command: readonly string[], environment: Record<string, string> = {}): Running {
    const variables = Object.entries({ HOME: '/srv/home', LANG: 'C.UTF-8', PATH: '/usr/local/bin:/usr/bin:/bin', ...environment });
    const isolated = ['env', '--ignore-environment', `--chdir=${path.posix.join('/srv', folder)}`, ...variables.map((variable) => variable.join('='))];
    return new Running('nsenter', [`--target=${this.#first}`, '--mount', '--pid', '--net', '--root', ...isolated, ...command]);
  }

  run(folder: string, ...command: string[]): Promise<Ended> {
    return this.start(folder, command).ended;
  }

  /** Sends a signal to a program that was started on it, and not to its children. */
  signal(running: Running, signal: NodeJS.Signals): void {
    const [program = 0] = childrenOf(running.child.pid ?? 0);
    process.kill(program, signal);
  }

  /** Copies a file or folder of this side to a path below its /srv. */
  async copy(source: string, target: string): Promise<void> {
    await execute('cp', ['-R', '--', source, path.join(this.srv, target)]);
  }

  /** Lets a folder of this side be read at a path below its /srv. */
  async show(folder: string, target: string): Promise<void> {
    const there = path.join(this.#root, 'srv', target);
    const script = 'mkdir -p "$2" && mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"';
    await execute('nsenter', [`--target=${this.#first}`, '--mount', 'sh', '-c', script, 'show', folder, there]);
  }

  /** Its processes but the first, as it counts them. */
  processes(): number[] {
    const numbers = readdirSync(`/proc/${this.#first}/root/proc`).filter((entry) => /^\d+$/.test(entry));
    return numbers.map(Number).filter((pid) => pid !== 1);
  }

  /** Ends what a test that failed has left running. */
  async clear(): Promise<void> {
    if (this.processes().length > 0) await this.run('.', 'bash', '-c', 'kill -KILL -1');
  }

  /** Ends it and whatever runs on it. */
  async stop(): Promise<void> {
    const ended = once(this.#namespaces, 'close');
    this.#namespaces.stdin?.end();
    await ended;
  }
}

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}
