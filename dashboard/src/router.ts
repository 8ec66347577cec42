// Places within the one document: the address says where one is.

import { computed, signal } from '@preact/signals';

export const place = signal(new URL(window.location.href));
export const query = computed(() => place.value.searchParams);

export function go(to: string, how: 'push' | 'replace' = 'push'): void {
  const url = new URL(to, window.location.href);
  if (how === 'replace') window.history.replaceState(null, '', url);
  else window.history.pushState(null, '', url);
  const isElsewhere = url.pathname !== place.value.pathname;
  place.value = url;
  if (isElsewhere) window.scrollTo(0, 0);
}

/** Changes parameters of the address; a later way back does not stop at each. */
export function setQuery(changes: Record<string, string | null>): void {
  const url = new URL(place.value);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === '') url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  go(url.href, 'replace');
}

export function begin(): void {
  window.addEventListener('popstate', () => (place.value = new URL(window.location.href)));
  // Links lead within the document, unless the browser is to do something else with them.
  document.addEventListener('click', (event) => {
    const link = event.target instanceof Element ? event.target.closest('a') : null;
    if (!link || event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (link.origin !== window.location.origin || link.target || link.hasAttribute('download')) return;
    // A place on the page that is open is the browser's to go to.
    if (link.hash !== '' && link.pathname === window.location.pathname && link.search === window.location.search) return;
    event.preventDefault();
    go(link.href);
  });
}

export const runPlace = (id: string): string => `/runs/${id}`;
export const videoPlace = (id: string): string => `/video?id=${encodeURIComponent(id)}`;
export const lineagePlace = (video: string): string => `/lineage?video=${encodeURIComponent(video)}`;
