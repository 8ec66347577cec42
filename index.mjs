// The entry for `import`. Nothing but the way to lib/main.js, so that `import` and `require` give one and the same: see
// there. The way is one that survives bundling: the package is found again by its name, from where this code lies then.

// Not `import { createRequire }`: webpack would follow its calls, and lose its way.
import nodeModule from 'node:module';

const name = '@captionacc/orchestrator';

/** Where this code lies. */
function here() {
  try {
    // esbuild leaves this empty in CommonJS, and warns of it unless it is in a `try`.
    if (import.meta.url) return import.meta.url;
  } catch {
    // It has no `import.meta` at all: it is CommonJS by now.
  }
  return typeof __filename === 'string' ? __filename : undefined;
}

function load() {
  // What webpack calls the URL of this file is one of the machine that built.
  const places = [here(), process.argv[1]].filter(Boolean);
  for (const place of places) {
    let main;
    try {
      const manifest = nodeModule.createRequire(place).resolve(`${name}/package.json`);
      main = nodeModule.createRequire(manifest).resolve('./lib/main.js');
    } catch {
      continue;
    }
    return nodeModule.createRequire(main)(main);
  }
  // The same words as in index.js: neither can load anything here.
  const message =
    `${name} is not found from ${places[0]}, or not whole there (${process.platform}-${process.arch}, Node ${process.version}): its ` +
    'code was taken into a bundle, or parts of it were left behind; its native addon goes into no bundle. Install the ' +
    `package where the bundle runs (npm install ${name}), and if that does not help, keep it out of the bundle: Vite and React Router ` +
    `ssr: { external: ['${name}'] }; esbuild --external:${name}; webpack externals: { '${name}': 'commonjs ${name}' }; ` +
    `Next serverExternalPackages: ['${name}'], with output: 'standalone' also ` +
    "outputFileTracingIncludes: { '/**': ['./node_modules/@captionacc/**'] }";
  throw Object.assign(new Error(message), { name: 'OrchestratorError', code: 'ERR_CAPTIONACC_LOAD_BUNDLED', retryable: false });
}

export const {
  OrchestratorError,
  cancelFlowRun,
  getFlowRun,
  getLineage,
  listFlowRuns,
  markQueued,
  queuePrefectFlow,
  retryFlowRun,
  waitForFlowRun,
  watchFlowRun,
  watchFlowRuns,
} = load();
