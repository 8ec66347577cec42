'use strict';

// What the entries, index.mjs and index.js, load. A bundler takes an entry into its bundle and finds no way from there
// to this file, so that everything behind it is there once in a process, whoever loads it, and lies beside its addon.

require('./node-version.js').checkNodeVersion();

module.exports = require('./orchestrator.js');
