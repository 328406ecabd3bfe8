#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(why) = conveyor_raft::quic::fuzz::datagrams(bytes) {
        panic!("{why}");
    }
});
