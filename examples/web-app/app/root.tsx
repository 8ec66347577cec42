import type { ReactNode } from 'react';
import { isRouteErrorResponse, Link, Links, Meta, Outlet, Scripts, ScrollRestoration } from 'react-router';

import type { Route } from './+types/root';
import styles from './styles.css?url';

export const links: Route.LinksFunction = () => [
  { rel: 'stylesheet', href: styles },
  // None: a browser that is told nothing asks for /favicon.ico.
  { rel: 'icon', href: 'data:,' },
];

export function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <head>
        <meta charSet="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <Meta />
        <Links />
      </head>
      <body>
        <header className="top">
          <Link to="/">Captions</Link>
          <span>films, the text on them, and the strip that holds it</span>
        </header>
        <main>{children}</main>
        <ScrollRestoration />
        <Scripts />
      </body>
    </html>
  );
}

export default function App() {
  return <Outlet />;
}

/** What is shown in place of a page that cannot be. */
export function ErrorBoundary({ error }: Route.ErrorBoundaryProps) {
  const [title, text] = isRouteErrorResponse(error)
    ? [error.status === 404 ? 'Not here' : `Error ${error.status}`, String(error.data)]
    : ['Something went wrong', error instanceof Error ? error.message : ''];
  return (
    <section className="card">
      <h1>{title}</h1>
      <p>{text}</p>
      <Link to="/">All films</Link>
    </section>
  );
}
