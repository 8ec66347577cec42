'use strict';

// Called before anything else is required: what comes after it is not written for an older Node, and would fail in words that
// help nobody. As lib/error.js, it is written in the JavaScript of 2018.

const { loadError } = require('./error.js');
const { engines, version } = require('../package.json');

const oldest = Number(/\d+/.exec(engines.node)[0]);

exports.checkNodeVersion = () => {
  if (Number(/\d+/.exec(process.version)[0]) >= oldest) return;
  throw loadError(
    'NODE_VERSION',
    `@captionacc/orchestrator ${version} needs Node.js ${oldest} or newer, and this is ${process.version} ` +
      `(${process.execPath}, ${process.platform}-${process.arch}): install a newer one (https://nodejs.org/en/download)`,
  );
};
