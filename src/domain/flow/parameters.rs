//! The parameters of a flow run as they are stored and shown: JSON by name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Parameters by name. For readers and for the store; who works with them parses them into
/// [`Arguments`](super::arguments::Arguments).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(pub Map<String, Value>);
