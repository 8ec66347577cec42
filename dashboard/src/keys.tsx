// The keyboard.

import { signal } from '@preact/signals';
import type { JSX } from 'preact';
import { useEffect, useRef } from 'preact/hooks';

import { go } from './router.js';

const isShown = signal(false);

const PLACES: Record<string, string> = { h: '/', r: '/runs', v: '/videos', l: '/lineage', p: '/pool' };

const KEYS: readonly (readonly [string, string])[] = [
  ['?', 'these keys'],
  ['g h', 'home'],
  ['g r', 'runs'],
  ['g v', 'videos'],
  ['g l', 'lineage'],
  ['g p', 'workers and pool'],
  ['/', 'search on this page'],
  ['j, k', 'next, previous row'],
  ['Enter', 'open the row'],
  ['x', 'choose the row (runs)'],
  ['c', 'cancel (a run)'],
  ['t', 'retry (a run)'],
  ['a', 'queue once more (a run)'],
  ['←, →', 'previous, next frame (a video)'],
  ['[, ]', 'previous, next caption (a video)'],
  ['Esc', 'close, leave a field'],
];

/** Keys of the page that is open, by their name. */
type PageKeys = Record<string, (event: KeyboardEvent) => void>;
const ofPage = new Set<{ current: PageKeys }>();

export function useKeys(keys: PageKeys): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    ofPage.add(latest);
    return () => void ofPage.delete(latest);
  }, []);
}

let isGoing = false;
let goingTimer = 0;

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLInputElement ? !['checkbox', 'button'].includes(target.type) : target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

function step(by: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>('[data-row]')];
  const at = rows.findIndex((row) => row === document.activeElement || row.closest('tr')?.contains(document.activeElement));
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  next?.focus();
  next?.scrollIntoView({ block: 'nearest' });
}

function press(event: KeyboardEvent): void {
  if (event.metaKey || event.ctrlKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector('dialog[open]')) return;
  const { key, target } = event;
  if (key === 'Escape' && target instanceof HTMLElement && isTyping(target)) target.blur();
  if (isTyping(target)) return;
  const done = (act: () => void) => {
    event.preventDefault();
    act();
  };
  if (isGoing) {
    isGoing = false;
    const place = PLACES[key];
    if (place) done(() => go(place));
    return;
  }
  if (key === 'g') {
    isGoing = true;
    window.clearTimeout(goingTimer);
    goingTimer = window.setTimeout(() => (isGoing = false), 1500);
  } else if (key === '?') done(() => (isShown.value = true));
  else if (key === '/') done(() => document.querySelector<HTMLInputElement>('[data-search]')?.focus());
  else if (key === 'j') done(() => step(1));
  else if (key === 'k') done(() => step(-1));
  else {
    for (const keys of ofPage) {
      const act = keys.current[key];
      if (act) done(() => act(event));
    }
  }
}

export function begin(): void {
  document.addEventListener('keydown', press);
}

export const showKeys = (): void => {
  isShown.value = true;
};

export function KeysDialog(): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const shown = isShown.value;
  useEffect(() => {
    if (shown) dialog.current?.showModal();
    else dialog.current?.close();
  }, [shown]);
  return (
    <dialog ref={dialog} aria-labelledby="keys" onClose={() => (isShown.value = false)}>
      <h2 id="keys">Keys</h2>
      <dl class="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <div class="buttons">
        <button type="button" class="primary" onClick={() => (isShown.value = false)}>
          Close
        </button>
      </div>
    </dialog>
  );
}
