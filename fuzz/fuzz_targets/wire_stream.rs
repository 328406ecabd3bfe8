#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = conveyor_raft::wire::fuzz::stream(bytes, 4096) {
        panic!("{why}");
    }
});
