// Values as people read them.

import type { FlowRun, Progress, StateType } from '../../index.js';

/** `12 ms`, `3.2 s`, `1:04`, `2:03:04`, `3 d 4 h`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.max(0, seconds);
  if (whole < 0.0995) return `${Math.round(whole * 1000)} ms`;
  if (whole < 10) return `${whole.toFixed(1)} s`;
  if (whole < 60) return `${Math.round(whole)} s`;
  const s = Math.floor(whole % 60);
  const m = Math.floor(whole / 60) % 60;
  const h = Math.floor(whole / 3600);
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  const two = (n: number) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function ago(time: string, now: number): string {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  if (seconds < 5) return 'now';
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** The moment of a film, from its place on the index clock. */
export function moment(frameIndex: number, rateHz: number): string {
  const tenths = Math.round((frameIndex / rateHz) * 10);
  const whole = Math.floor(tenths / 10);
  const two = (n: number) => String(n).padStart(2, '0');
  const text = `${Math.floor(whole / 60) % 60}:${two(whole % 60)}`;
  const hours = Math.floor(whole / 3600);
  const clock = hours > 0 ? `${hours}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}` : text;
  return tenths % 10 === 0 ? clock : `${clock}.${tenths % 10}`;
}

export function bytes(count: number): string {
  for (const [unit, size] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]] as const) {
    if (count >= size) return `${(count / size).toFixed(count >= size * 10 ? 0 : 1)} ${unit}`;
  }
  return `${count} bytes`;
}

export const clock = (time: string): string => new Date(time).toLocaleTimeString([], { hour12: false });
export const dateTime = (time: string): string => new Date(time).toLocaleString([], { hour12: false });
export const count = (n: number, one: string, many = `${one}s`): string => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
/** Enough of an id to tell runs apart: its end, where the random part is. */
export const shortId = (id: string): string => id.slice(-8);
export const percent = (fraction: number): string => `${Math.floor(fraction * 100)} %`;

export function progressText(progress: Progress): string {
  const total = progress.total === null ? '' : ` of ${progress.total.toLocaleString('en')}`;
  return `${progress.task} · ${progress.done.toLocaleString('en')}${total} ${progress.unit}`;
}

/** From its first start to its end, or to now, in seconds: `null` where none of it was tried. While it waits to be tried again no time is added. */
export function tookSeconds(run: FlowRun, now: number): number | null {
  // Prefect gives a run that was cancelled as it waited a start as well.
  if (run.startedAt === null || run.attempt === 0) return null;
  const end = run.endedAt ?? (run.state.type === 'SCHEDULED' ? run.state.timestamp : null);
  return ((end === null ? now : Date.parse(end)) - Date.parse(run.startedAt)) / 1000;
}

/** When the next attempt of a run that has failed is due. */
export function nextAttemptText(run: FlowRun, now: number): string | null {
  if (run.state.name !== 'AwaitingRetry') return null;
  const seconds = Math.ceil((Date.parse(run.scheduledAt) - now) / 1000);
  return seconds > 0 ? `again in ${duration(seconds)}` : 'again when a slot is free';
}

/** What is left of an attempt at the pace that it has had; in seconds. */
export function leftSeconds(run: FlowRun, now: number): number | null {
  const { progress, state } = run;
  if (state.type !== 'RUNNING' || progress === null || progress.fraction < 0.02) return null;
  // The state's time is the attempt's start.
  const passed = (now - Date.parse(state.timestamp)) / 1000;
  return passed < 2 ? null : (passed / progress.fraction) * (1 - progress.fraction);
}

const FINAL: readonly StateType[] = ['CANCELLED', 'COMPLETED', 'FAILED', 'CRASHED'];
export const isAtWork = (type: StateType): boolean => ['PENDING', 'RUNNING', 'CANCELLING'].includes(type);
export const isFinal = (type: StateType): boolean => FINAL.includes(type);
export const canCancel = (type: StateType): boolean => !isFinal(type) && type !== 'CANCELLING';
export const canRetry = (run: FlowRun): boolean =>
  ['FAILED', 'CRASHED', 'CANCELLED'].includes(run.state.type) || run.state.name === 'AwaitingRetry';
