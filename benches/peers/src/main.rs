//! `conveyor-peers SIDE GROUPS FOLDER`: so many synced groups, for a look from outside at what is
//! really synced (see `./run`). Without arguments: the names of all sides.

#[path = "../../common/log.rs"]
mod log;
mod sides;

use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, groups, folder] = &args[..] else {
        sides::SIDES.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let found = sides::SIDES.iter().find(|side| side.0 == name);
    let (_, make) = found.expect("a known side");
    let groups: u64 = groups.parse().expect("a number of groups");
    let mut side = make(Path::new(folder), true);
    let group = log::Group::new(1024);
    (0..groups).for_each(|_| side.append(&group));
    // Nothing that ends the side counts.
    std::process::exit(0);
}
