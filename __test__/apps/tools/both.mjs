// `import` and `require` in one process, as a library of the app that is still CommonJS makes it.
import { createRequire } from 'node:module';

import * as imported from '@captionacc/orchestrator';

const required = createRequire(import.meta.url)('@captionacc/orchestrator');
const differing = Object.keys(required).filter((name) => required[name] !== imported[name]);
console.log(JSON.stringify({ names: Object.keys(required).length, differing }));
