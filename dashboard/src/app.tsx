// The pages, and what stands around each.

import { render, type JSX } from 'preact';
import { useEffect, useLayoutEffect } from 'preact/hooks';

import { about, away, begin as beginLive, connection, overview, reconnect } from './live.js';
import { begin as beginKeys, KeysDialog, showKeys } from './keys.js';
import { deliveryText, Notice, QuestionDialog } from './parts.js';
import { HomePage } from './pages/home.js';
import { LineagePage } from './pages/lineage.js';
import { PoolPage } from './pages/pool.js';
import { RunPage } from './pages/run.js';
import { RunsPage } from './pages/runs.js';
import { VideoPage } from './pages/video.js';
import { VideosPage } from './pages/videos.js';
import { begin as beginRouter, place } from './router.js';

interface Page {
  title: string;
  /** The place in the menu. */
  menu: string;
  view: JSX.Element;
}

function pageOf(url: URL): Page {
  const run = /^\/runs\/([0-9a-f-]{36})$/.exec(url.pathname)?.[1];
  const video = url.searchParams.get('id');
  if (run) return { title: `Run ${run.slice(-8)}`, menu: '/runs', view: <RunPage key={run} id={run} /> };
  if (url.pathname === '/video' && video !== null) return { title: video, menu: '/videos', view: <VideoPage key={video} id={video} /> };
  switch (url.pathname) {
    case '/':
      return { title: 'Home', menu: '/', view: <HomePage /> };
    case '/runs':
      return { title: 'Runs', menu: '/runs', view: <RunsPage /> };
    case '/videos':
      return { title: 'Videos', menu: '/videos', view: <VideosPage /> };
    case '/lineage':
      return { title: 'Lineage', menu: '/lineage', view: <LineagePage /> };
    case '/pool':
      return { title: 'Workers and pool', menu: '/pool', view: <PoolPage /> };
    default:
      return {
        title: 'Nothing here',
        menu: '',
        view: (
          <>
            <h1>There is nothing at this address.</h1>
            <p>
              <a href="/">Home</a>
            </p>
          </>
        ),
      };
  }
}

const MENU = [
  ['/', 'Home'],
  ['/runs', 'Runs'],
  ['/videos', 'Videos'],
  ['/lineage', 'Lineage'],
  ['/pool', 'Pool'],
] as const;

function App(): JSX.Element {
  const { title, menu, view } = pageOf(place.value);
  const { pathname } = place.value;
  useEffect(() => {
    document.title = `${title} · CaptionA.cc`;
  }, [title]);
  // Whoever does not see the page hears that it is another one.
  // Before it is drawn: a key that is pressed at once must not go to what was focused meanwhile.
  useLayoutEffect(() => document.getElementById('main')?.focus({ preventScroll: true }), [pathname]);
  const pool = overview.value?.pool;
  const waiting = pool?.waiting.reduce((sum, { count }) => sum + count, 0) ?? 0;
  return (
    <>
      <a class="skip" href="#main" onClick={() => document.getElementById('main')?.focus()}>
        To the page
      </a>
      <header>
        <nav aria-label="Pages">
          <a class="brand" href="/" tabIndex={-1} aria-hidden="true">
            <img src="/icon.svg" alt="" width="18" height="18" /> CaptionA.cc
          </a>
          {MENU.map(([to, name]) => (
            <a key={to} href={to} aria-current={menu === to ? 'page' : undefined}>
              {name}
            </a>
          ))}
        </nav>
        <div class="at-hand">
          {pool ? (
            <a class="slots" href="/pool" title="Slots taken, and runs that wait">
              {pool.active}/{pool.concurrencyLimit}{' '}
              <span class="quiet">
                · {waiting.toLocaleString('en')}
                <span class="word"> waiting</span>
              </span>
              {pool.isPaused ? <b class="paused"> paused</b> : null}
            </a>
          ) : null}
          <span class="connection" data-connection={connection.value} role="img" aria-label={`Live connection: ${connection.value}`} title={`Live: ${connection.value}`} />
          <button type="button" class="small" onClick={showKeys} aria-label="Keys" title="Keys (?)">
            ?
          </button>
        </div>
      </header>
      <Banner />
      <main id="main" tabIndex={-1} aria-label={title}>
        {view}
      </main>
      <footer>
        {about.value ? (
          <>
            captionacc {about.value.version} · {about.value.orchestrator}
            {about.value.readOnly ? ' · read-only' : ''}
            {about.value.prefectUi === null ? null : (
              <>
                {' · '}
                <a href={about.value.prefectUi} target="_blank" rel="noreferrer">
                  Prefect’s UI
                </a>
              </>
            )}
          </>
        ) : null}
      </footer>
      <Notice />
      <QuestionDialog />
      <KeysDialog />
    </>
  );
}

function Banner(): JSX.Element | null {
  if (connection.value === 'refused') {
    return (
      <div class="banner" role="alert">
        The dashboard was started anew: open the address with the token that it printed.
      </div>
    );
  }
  if (connection.value === 'lost') {
    return (
      <div class="banner" role="alert">
        The connection is lost; what you see may be old. It is tried again.{' '}
        <button type="button" class="small" onClick={reconnect}>
          Try now
        </button>
      </div>
    );
  }
  if (away.value === null) return null;
  const { problem, delivery } = away.value;
  return (
    <div class="banner" role="alert">
      The queue does not answer to the dashboard; what you see may be old. {problem.message}
      {delivery ? (
        <>
          {' '}
          <a href="/pool">{deliveryText(delivery)}</a>
        </>
      ) : null}
    </div>
  );
}

beginRouter();
beginLive();
beginKeys();
render(<App />, document.getElementById('app')!);
