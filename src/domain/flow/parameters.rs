//! The parameters of a flow run as they are stored and shown: JSON by name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Parameters by name. For readers and for the store; who works with them parses them into
/// [`Arguments`](super::arguments::Arguments).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(pub Map<String, Value>);

/// The parameter that names captions.
pub const CAPTION_IDS: &str = "caption-ids";

impl Parameters {
    /// The captions that a run is about, if it is about some.
    pub fn caption_ids(&self) -> Option<BTreeSet<i64>> {
        let ids = self.0.get(CAPTION_IDS)?.as_array()?;
        Some(ids.iter().filter_map(Value::as_i64).collect())
    }
}
