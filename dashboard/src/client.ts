// Asking the server.

import type { Problem, Refusal } from './api.js';

/** An answer that was no success. */
export class RequestError extends Error {
  constructor(readonly problem: Problem, readonly status: number) {
    super(problem.message);
  }
}

const UNREACHABLE: Problem = {
  code: 'UNREACHABLE',
  message: 'The dashboard does not answer: it was ended, or the connection to it is lost.',
  retryable: true,
};

async function ask(url: string, init?: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (init?.signal?.aborted) throw error;
    throw new RequestError(UNREACHABLE, 0);
  }
  if (response.ok) return response;
  const refusal = (await response.json().catch(() => null)) as Refusal | null;
  const message = `The dashboard answered ${response.status}.`;
  throw new RequestError(refusal?.error ?? { code: 'UNKNOWN', message, retryable: false }, response.status);
}

export async function read<T>(url: string, signal?: AbortSignal): Promise<T> {
  const response = await ask(url, signal ? { signal } : undefined);
  return (await response.json()) as T;
}

export async function change<T>(url: string, body: unknown = {}): Promise<T> {
  const headers = { 'content-type': 'application/json' };
  const response = await ask(url, { method: 'POST', headers, body: JSON.stringify(body) });
  return (await response.json()) as T;
}

export function problemOf(error: unknown): Problem {
  if (error instanceof RequestError) return error.problem;
  return { code: 'UNKNOWN', message: error instanceof Error ? error.message : String(error), retryable: false };
}

/** An address with those parameters that say something. */
export function address(path: string, parameters: Record<string, string | number | null | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== '') query.set(name, String(value));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}
