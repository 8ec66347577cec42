'use strict';

// The entry for `require`; what index.mjs says of itself is true of it, too.

const name = '@captionacc/orchestrator';

function load() {
  // A module of CommonJS in a bundle of ES modules has neither `require` nor `__filename`.
  const { createRequire } = process.getBuiltinModule ? process.getBuiltinModule('node:module') : require('node:module');
  const places = [typeof __filename === 'string' && __filename, process.argv[1]].filter(Boolean);
  for (const place of places) {
    let manifest;
    try {
      manifest = createRequire(place).resolve(`${name}/package.json`);
    } catch {
      continue;
    }
    return createRequire(manifest)('./lib/main.js');
  }
  // The same words as in index.mjs: neither can load anything here.
  const message =
    `${name} is not found from ${places[0]} (${process.platform}-${process.arch}, Node ${process.version}): ` +
    'its code was taken into a bundle, its native addon cannot be. Install the package where the bundle runs ' +
    `(npm install ${name}), and keep it out of the bundle if it is still not found: Vite and React Router ` +
    `ssr: { external: ['${name}'] }; esbuild --external:${name}; webpack externals: { '${name}': 'commonjs ${name}' }; ` +
    `Next serverExternalPackages: ['${name}']`;
  throw Object.assign(new Error(message), { name: 'OrchestratorError', code: 'ERR_CAPTIONACC_LOAD_BUNDLED', retryable: false });
}

const main = load();

// One by one: tools that read names without running anything see these.
exports.OrchestratorError = main.OrchestratorError;
exports.cancelFlowRun = main.cancelFlowRun;
exports.getFlowRun = main.getFlowRun;
exports.getLineage = main.getLineage;
exports.listFlowRuns = main.listFlowRuns;
exports.queuePrefectFlow = main.queuePrefectFlow;
exports.retryFlowRun = main.retryFlowRun;
exports.waitForFlowRun = main.waitForFlowRun;
exports.watchFlowRun = main.watchFlowRun;
