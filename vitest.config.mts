import path from 'node:path';

import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: {
    alias: { '@captionacc/orchestrator': path.join(import.meta.dirname, 'index.mjs') },
  },
  test: {
    include: ['__test__/**/*.spec.ts'],
    // The package is loaded by Node itself, as its users load it.
    server: { deps: { external: [/\/index\.m?js$/] } },
    // Each file is a process of its own: settings are read from a process's environment.
    pool: 'forks',
    // Real processes on two cores: more of them at once only make each other late.
    maxWorkers: 2,
    // What runs real films takes its time on a busy machine; a test that hangs still ends.
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
