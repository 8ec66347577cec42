import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';

import { afterTest } from './home.js';

export const root = path.join(import.meta.dirname, '..', '..');

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** A program whose end can be awaited and whose output is kept; killed at the end of the test if it still runs. */
export class Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  stdout = '';
  stderr = '';

  constructor(program: string, given: readonly string[], options: { cwd?: string; env?: Record<string, string> } = {}) {
    this.child = spawn(program, given, {
      cwd: options.cwd ?? root,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    this.ended = once(this.child, 'close').then(([code, signal]: unknown[]) => ({
      code: code as number | null,
      signal: signal as NodeJS.Signals | null,
      stdout: this.stdout,
      stderr: this.stderr,
    }));
    afterTest(() => this.child.kill('SIGKILL'));
  }

  /** Resolves once either output contains `text`; rejects if the program ends before. */
  async says(text: string): Promise<void> {
    while (!`${this.stdout}\n${this.stderr}`.includes(text)) {
      const heard = new Promise<'more'>((resolve) => {
        this.child.stdout?.once('data', () => resolve('more'));
        this.child.stderr?.once('data', () => resolve('more'));
      });
      if ((await Promise.race([heard, this.ended.then(() => 'ended')])) === 'ended') {
        if (`${this.stdout}\n${this.stderr}`.includes(text)) return;
        throw new Error(`it ended without saying ${JSON.stringify(text)}: ${this.stdout}\n${this.stderr}`);
      }
    }
  }
}

/** Runs JavaScript in a Node process of its own and returns how it ended. */
export function runNode(code: string, options: { type?: 'module' | 'commonjs'; cwd?: string; env?: Record<string, string> } = {}): Promise<Ended> {
  return new Running(process.execPath, [`--input-type=${options.type ?? 'commonjs'}`, '--eval', code], options).ended;
}

/** Whether a process of that id is there and is no zombie. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
