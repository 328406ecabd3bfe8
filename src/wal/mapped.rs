//! Real files: a locked directory, mapped segments, and a thread per lane.
