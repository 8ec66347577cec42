import path from 'node:path';
import { pathToFileURL } from 'node:url';

/** Answers with what `queue` says, from the sources or from the build. */
const server = (load) => async (request, response, next) => {
  if (request.url !== '/queue') return next();
  try {
    const { queue } = await load();
    response.end(await queue('served'));
  } catch (error) {
    next(error);
  }
};

export default {
  appType: 'custom',
  build: { ssr: 'queue.mjs' },
  plugins: [
    {
      name: 'server',
      configureServer(vite) {
        vite.middlewares.use(server(() => vite.ssrLoadModule('/queue.mjs')));
      },
      configurePreviewServer(vite) {
        const built = path.join(vite.config.root, 'dist/queue.js');
        vite.middlewares.use(server(() => import(pathToFileURL(built))));
      },
    },
  ],
};
