//! Commands by name, for figures.

use super::RouterCommand;

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        /// The names of all commands.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];

        #[derive(Clone, Copy)]
        enum Nth { $($name),* }

        /// A command's place in [`NAMES`].
        pub(crate) fn nth(command: &RouterCommand) -> usize {
            match command {
                $(RouterCommand::$name { .. } => Nth::$name as usize,)*
            }
        }
    };
}

names! {
    Noop, RegisterService, DeregisterService, RenewLease, UpdateServiceHealth, CreatePipeline,
    UpdatePipeline, DeletePipeline, EnablePipeline, DisablePipeline, CommitSourceOffset,
    AdvanceWatermark, SaveServiceCheckpoint, JoinGroup, LeaveGroup, AssignPartitions,
    CommitGroupOffset, RegisterSidecar, DeregisterSidecar, UpdateSidecarHeartbeat, AssignPipeline,
    RevokePipeline, CommitGroupOffsets, ReportSource, ExpireLeases,
}
