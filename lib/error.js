'use strict';

// Written in the JavaScript of 2018: it tells a Node of then that it is too old.

class OrchestratorError extends Error {
  constructor(code, message, { retryable = false, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.retryable = retryable;
  }
}
// On the prototype, as with the errors of the language: it is no property of each error.
Object.defineProperty(OrchestratorError.prototype, 'name', { value: 'OrchestratorError', configurable: true, writable: true });

/** That the package cannot be loaded, which nothing but a change of the installation cures. */
exports.loadError = (reason, message, cause) => new OrchestratorError(`ERR_CAPTIONACC_LOAD_${reason}`, message, { cause });

exports.OrchestratorError = OrchestratorError;
