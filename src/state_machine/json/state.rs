//! The whole state as JSON, under the paths of its fields; keys of several parts are nested.

use std::collections::BTreeMap;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::state_machine::state::{Checkpoints, RouterState};

impl Serialize for RouterState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let locations = self.service_locations.iter();
        let locations = locations.map(|(name, sidecars)| (name, sidecars.keys().collect()));
        let locations: BTreeMap<_, Vec<_>> = locations.collect();
        let mut form = serializer.serialize_struct("RouterState", 11)?;
        form.serialize_field("index", &self.index())?;
        form.serialize_field("term", &self.term())?;
        form.serialize_field("time_ms", &self.time_ms())?;
        form.serialize_field("digest", &format!("{:032x}", self.digest()))?;
        form.serialize_field("rejections", &self.rejections())?;
        form.serialize_field("services", &self.services)?;
        form.serialize_field("pipelines", &self.pipelines)?;
        form.serialize_field("checkpoints", &self.checkpoints)?;
        form.serialize_field("groups", &self.groups)?;
        form.serialize_field("sidecars", &self.sidecars)?;
        form.serialize_field("service_locations", &locations)?;
        form.end()
    }
}

impl Serialize for Checkpoints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut offsets: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (key, value) in &self.source_offsets {
            let source = offsets.entry(&key.source_id).or_default();
            source.insert(key.partition, value);
        }
        let mut watermarks: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (key, value) in &self.watermarks {
            let source = watermarks.entry(&key.source_id).or_default();
            source.insert(key.partition, value);
        }
        let mut groups: BTreeMap<_, BTreeMap<_, BTreeMap<_, _>>> = BTreeMap::new();
        for (key, value) in &self.group_offsets {
            let group = groups.entry(&key.group_id).or_default();
            let source = group.entry(&key.source_id).or_default();
            source.insert(key.partition, value);
        }
        let mut form = serializer.serialize_struct("Checkpoints", 4)?;
        form.serialize_field("source_offsets", &offsets)?;
        form.serialize_field("watermarks", &watermarks)?;
        form.serialize_field("service_checkpoints", &self.service_checkpoints)?;
        form.serialize_field("group_offsets", &groups)?;
        form.end()
    }
}
