//! Source offsets, watermarks and checkpoints.

use std::collections::BTreeMap;
use std::iter;

use super::groups::Raised;
use super::store::Store;
use super::{Answer, Applied, Rejection, applied, limits, unchanged, within};
use crate::state_machine::RouterCommand;
use crate::state_machine::command::{EventTime, SourceWatermark};
use crate::state_machine::response::Behind;
use crate::state_machine::state::{
    GlobalWatermark, Offset, ServiceCheckpoint, SourceKey, Watermark,
};

impl Store<'_> {
    pub(super) fn apply_source(&mut self, command: RouterCommand) -> Applied {
        match command {
            RouterCommand::CommitSourceOffset {
                source_id,
                partition,
                offset,
                rewind,
            } => self.commit_source_offset(&source_id, partition, offset, rewind),
            RouterCommand::AdvanceWatermark {
                source_id,
                partition,
                position,
                event_time,
            } => self.advance_watermark(&source_id, partition, position, event_time),
            RouterCommand::SaveServiceCheckpoint {
                service_id,
                checkpoint_id,
                data,
                source_offsets,
            } => self.save_checkpoint(ServiceCheckpoint {
                service_id: service_id.into(),
                checkpoint_id: checkpoint_id.into(),
                data,
                source_offsets,
                created_at_ms: self.state.clock.time_ms(),
                revision: self.state.clock.index,
            }),
            RouterCommand::ReportSource {
                source_id,
                offsets,
                watermarks,
            } => self.report_source(&source_id, &offsets, &watermarks),
            _ => unchanged(Answer::None),
        }
    }

    fn commit_source_offset(
        &mut self,
        source: &str,
        partition: u32,
        offset: u64,
        rewind: bool,
    ) -> Applied {
        self.room_for_source_offsets(source, iter::once(&partition))?;
        match self.raise_source_offset(source, partition, offset, rewind) {
            Raised::Changed => applied(Answer::Offset { current: offset }),
            Raised::Same => unchanged(Answer::Offset { current: offset }),
            Raised::Behind(current) => Err(Rejection::Behind { current }),
        }
    }

    fn room_for_source_offsets<'a>(
        &self,
        source: &str,
        partitions: impl ExactSizeIterator<Item = &'a u32>,
    ) -> Result<(), Rejection> {
        let known = &self.state.checkpoints.source_offsets;
        if known.len() + partitions.len() <= limits::MAX_OFFSETS {
            return Ok(());
        }
        let new = partitions.filter(|each| !known.contains_key(&SourceKey(source, **each)));
        within(
            "source_offsets",
            known.len() + new.count(),
            limits::MAX_OFFSETS,
        )
    }

    fn room_for_watermarks<'a>(
        &self,
        source: &str,
        partitions: impl ExactSizeIterator<Item = &'a u32>,
    ) -> Result<(), Rejection> {
        let known = &self.state.checkpoints.watermarks;
        if known.len() + partitions.len() <= limits::MAX_OFFSETS {
            return Ok(());
        }
        let new = partitions.filter(|each| !known.contains_key(&SourceKey(source, **each)));
        within("watermarks", known.len() + new.count(), limits::MAX_OFFSETS)
    }

    fn raise_source_offset(
        &mut self,
        source: &str,
        partition: u32,
        offset: u64,
        rewind: bool,
    ) -> Raised {
        let revision = self.state.clock.index;
        let new = Offset { offset, revision };
        let offsets = &mut self.state.checkpoints.source_offsets;
        let Some(entry) = offsets.get_mut(&SourceKey(source, partition)) else {
            self.new_source_offset(source, partition, new);
            return Raised::Changed;
        };
        let old = *entry;
        if let Some(kept) = Raised::kept(old.offset, offset, rewind) {
            return kept;
        }
        *entry = new;
        self.exchange_source_offset(source, partition, old, new);
        Raised::Changed
    }

    fn advance_watermark(
        &mut self,
        source: &str,
        partition: u32,
        position: u64,
        event_time: Option<EventTime>,
    ) -> Applied {
        self.room_for_watermarks(source, iter::once(&partition))?;
        let (raised, mark) = self.raise_watermark(source, partition, position, event_time);
        let changed = match raised {
            Raised::Changed => true,
            Raised::Same => false,
            Raised::Behind(current) => return Err(Rejection::Behind { current }),
        };
        let own = mark.of(partition);
        let global = match self.state.indexes.slowest(source) {
            Some(slowest) if slowest != partition => self.state.watermark(source, slowest),
            _ => None,
        };
        let global = global.unwrap_or(own);
        let answer = Answer::Watermark { own, global };
        if changed {
            applied(answer)
        } else {
            unchanged(answer)
        }
    }

    /// Raises position and event time, each by itself, unless the position is lower. What is in force then.
    fn raise_watermark(
        &mut self,
        source: &str,
        partition: u32,
        position: u64,
        event_time: Option<EventTime>,
    ) -> (Raised, Watermark) {
        let revision = self.state.clock.index;
        let watermarks = &mut self.state.checkpoints.watermarks;
        let key = SourceKey(source, partition);
        let Some((stored, entry)) = watermarks.get_key_value_mut(&key) else {
            let new = Watermark {
                position,
                event_time,
                revision,
            };
            self.new_watermark(source, partition, new);
            return (Raised::Changed, new);
        };
        let old = *entry;
        if position < old.position {
            return (Raised::Behind(old.position), old);
        }
        let event_time = event_time.max(old.event_time);
        if (position, event_time) == (old.position, old.event_time) {
            return (Raised::Same, old);
        }
        let new = Watermark {
            position,
            event_time,
            revision,
        };
        *entry = new;
        let id = stored.source_id.clone();
        self.exchange_watermark(&id, partition, &old, &new);
        (Raised::Changed, new)
    }

    fn report_source(
        &mut self,
        source: &str,
        offsets: &BTreeMap<u32, u64>,
        watermarks: &BTreeMap<u32, SourceWatermark>,
    ) -> Applied {
        self.room_for_source_offsets(source, offsets.keys())?;
        self.room_for_watermarks(source, watermarks.keys())?;
        let (mut behind, mut changed) = (Vec::new(), false);
        let mut note = |raised, partition, watermark| match raised {
            Raised::Changed => changed = true,
            Raised::Same => {}
            Raised::Behind(current) => behind.push(Behind {
                source_id: source.into(),
                partition,
                watermark,
                current,
            }),
        };
        for (&partition, &offset) in offsets {
            let raised = self.raise_source_offset(source, partition, offset, false);
            note(raised, partition, false);
        }
        for (&partition, mark) in watermarks {
            let (position, event_time) = (mark.position, mark.event_time);
            let (raised, _) = self.raise_watermark(source, partition, position, event_time);
            note(raised, partition, true);
        }
        let answer = Answer::SourceReported {
            behind,
            global: self.state.global_watermark(source),
        };
        if changed {
            applied(answer)
        } else {
            unchanged(answer)
        }
    }

    fn save_checkpoint(&mut self, new: ServiceCheckpoint) -> Applied {
        let newest = &self.state.checkpoints.service_checkpoints;
        let old = newest.get(&*new.service_id);
        if let Some(old) = old
            && old.checkpoint_id == new.checkpoint_id
            && old.data == new.data
            && old.source_offsets == new.source_offsets
        {
            return unchanged(Answer::CheckpointSaved {
                created_at_ms: old.created_at_ms,
                revision: old.revision,
            });
        }
        let others = self.state.checkpoint_bytes - old.map_or(0, |old| old.size());
        if others + new.size() > limits::MAX_CHECKPOINTS {
            return Err(Rejection::LimitExceeded {
                which: "checkpoints".into(),
                limit: limits::MAX_CHECKPOINTS,
            });
        }
        let answer = Answer::CheckpointSaved {
            created_at_ms: new.created_at_ms,
            revision: new.revision,
        };
        self.put_checkpoint(new);
        applied(answer)
    }
}

impl Watermark {
    pub(crate) fn of(self, partition: u32) -> GlobalWatermark {
        GlobalWatermark {
            partition,
            position: self.position,
            event_time: self.event_time,
        }
    }
}
