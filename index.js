'use strict';

// The entry for `require`; what index.mjs says of itself is true of it, too.

const name = '@captionacc/orchestrator';

function load() {
  // A module of CommonJS in a bundle of ES modules has neither `require` nor `__filename`. A Node that does not know the
  // name node:module still has to be told that it is too old.
  const { createRequire } = process.getBuiltinModule ? process.getBuiltinModule('node:module') : require('module');
  const places = [typeof __filename === 'string' && __filename, process.argv[1]].filter(Boolean);
  for (const place of places) {
    let main;
    try {
      const manifest = createRequire(place).resolve(`${name}/package.json`);
      main = createRequire(manifest).resolve('./lib/main.js');
    } catch {
      continue;
    }
    return createRequire(main)(main);
  }
  // The same words as in index.mjs: neither can load anything here.
  const message =
    `${name} is not found from ${places[0]}, or not whole there (${process.platform}-${process.arch}, Node ${process.version}): its ` +
    'code was taken into a bundle, or parts of it were left behind; its native addon goes into no bundle. Install the ' +
    `package where the bundle runs (npm install ${name}), and if that does not help, keep it out of the bundle: Vite and React Router ` +
    `ssr: { external: ['${name}'] }; esbuild --external:${name}; webpack externals: { '${name}': 'commonjs ${name}' }; ` +
    `Next serverExternalPackages: ['${name}'], with output: 'standalone' also ` +
    "outputFileTracingIncludes: { '/**': ['./node_modules/@captionacc/**'] }";
  throw Object.assign(new Error(message), { name: 'OrchestratorError', code: 'ERR_CAPTIONACC_LOAD_BUNDLED', retryable: false });
}

const main = load();

// One by one: tools that read names without running anything see these.
exports.OrchestratorError = main.OrchestratorError;
exports.cancelFlowRun = main.cancelFlowRun;
exports.getFlowRun = main.getFlowRun;
exports.getLineage = main.getLineage;
exports.listFlowRuns = main.listFlowRuns;
exports.markQueued = main.markQueued;
exports.queuePrefectFlow = main.queuePrefectFlow;
exports.retryFlowRun = main.retryFlowRun;
exports.waitForFlowRun = main.waitForFlowRun;
exports.watchFlowRun = main.watchFlowRun;
exports.watchFlowRuns = main.watchFlowRuns;
