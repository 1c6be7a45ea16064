//! Lists the files of `assets/` for `web/pages.rs`, which embeds them: a page that misses one of its modules is blank.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

/// What is served; tools and notes beside it are not.
const SERVED: [&str; 4] = ["html", "css", "js", "svg"];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("assets");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let served =
            path.extension().and_then(|kind| kind.to_str()).is_some_and(|kind| SERVED.contains(&kind));
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("an asset's name is not text")?;
        if served && !name.contains(".test.") {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push((name.to_owned(), path.display().to_string()));
        }
    }
    files.sort();
    let mut table = String::from("&[\n");
    for (name, path) in files {
        writeln!(table, "    ({name:?}, include_bytes!({path:?}) as &[u8]),")?;
    }
    table.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("assets.rs"), table)?;
    Ok(())
}
