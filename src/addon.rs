//! The Node surface; the only file that knows napi.
