#![no_main]

use conveyor_raft::wal::fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = fuzz::model(bytes).and_then(|()| fuzz::model_written_through(bytes)) {
        panic!("{why}");
    }
});
