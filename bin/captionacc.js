#!/usr/bin/env node
'use strict';

// Becomes the `captionacc` binary, so that it is the binary that gets the signals. Where Node cannot replace its own
// process (before 22.15), this process stays beside it, passes signals on and ends as the binary ended.

const { loadError } = require('../lib/error.js');

/** Ends with an error as the binary tells its own. */
function fail({ code, message, retryable }) {
  process.stderr.write(`${JSON.stringify({ error: { code, message, retryable } })}\n`);
  process.exit(1);
}

let binary;
try {
  require('../lib/node-version.js').checkNodeVersion();
  binary = require('../lib/platform.js').binaryPath();
} catch (error) {
  fail(error);
}

const given = process.argv.slice(2);

if (typeof process.execve === 'function') {
  process.execve(binary, [binary, ...given], process.env);
} else {
  const { spawn } = require('node:child_process');
  // A terminal sends these to the binary itself, as it is in the same process group: passed on as well, one Ctrl-C
  // would count as two, and the second one stops a worker at once.
  const isOnTerminal = process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY;
  let child;
  // Before the binary starts: a signal that ends this process in between would leave it alone in the world.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2']) {
    const isFromTerminal = signal === 'SIGINT' || signal === 'SIGHUP' || signal === 'SIGQUIT';
    process.on(signal, () => {
      if (!(isFromTerminal && isOnTerminal)) child.kill(signal);
    });
  }
  child = spawn(binary, given, { stdio: 'inherit' });
  child.on('error', (error) => {
    fail(loadError('REFUSED', `${binary} cannot be started: ${error.message}`));
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}
