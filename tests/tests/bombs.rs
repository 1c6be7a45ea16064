//! A folder of hostile files among good ones, through the real `trawl-worker run`: one error row each, and no
//! more memory than without them.

use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::Child, time::Duration};
use trawl_common::results::row::Outcome;
use trawl_tests::{
    bombs::{self, Bomb},
    images,
    programs::{Ended, program, tiny_model},
    rows,
};

/// Good images among the bombs.
const GOOD: u32 = 8;

/// The size of the file that is too large to read; it is sparse.
const ENORMOUS: u64 = 1 << 30;

/// What the bombs may add to the worker's peak of memory.
const EXTRA_BYTES: u64 = 64 << 20;

/// What each bomb may add to the time of the whole run.
const SOON: Duration = Duration::from_millis(100);

/// Runs over `photos`, and says how it ended, its peak of memory in bytes, and its time.
fn measured(dir: &Path, photos: &str) -> (Ended, u64, Duration) {
    let out = format!("out-{photos}");
    let stderr = dir.join(format!("{photos}.stderr"));
    let began = std::time::Instant::now();
    let child = program("trawl-worker")
        .current_dir(dir)
        .args([
            "run",
            photos,
            "--out",
            &out,
            "--output",
            "json",
            "--threads",
            "1",
            "--device",
            "cpu",
            "--model",
        ])
        .arg(tiny_model())
        .stdout(fs::File::create(dir.join("stdout")).expect("a file"))
        .stderr(fs::File::create(&stderr).expect("a file"))
        .spawn()
        .expect("the worker starts");
    let (status, peak) = wait(child);
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("a file")).into_owned();
    let (stdout, stderr) = (read(&dir.join("stdout")), read(&stderr));
    (Ended { status, stdout, stderr }, peak, began.elapsed())
}

/// Waits for the end; the kernel counts the peak of this very child.
#[expect(clippy::needless_pass_by_value, reason = "after this there is no child to wait for")]
fn wait(child: Child) -> (std::process::ExitStatus, u64) {
    let pid = i32::try_from(child.id()).expect("a pid");
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to memory of ours that outlives the call; the child is ours and not waited for.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, pid, "{}", std::io::Error::last_os_error());
    // SAFETY: all-zero bytes are a valid value of it, and the kernel filled it in.
    let kibibytes = unsafe { usage.assume_init() }.ru_maxrss;
    (std::process::ExitStatus::from_raw(status), u64::try_from(kibibytes).expect("a size") << 10)
}

#[test]
fn a_folder_of_bombs_costs_a_row_each_and_no_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    images::folder(&dir.join("good"), GOOD);
    images::folder(&dir.join("mixed"), GOOD);
    let bombs = bombs::all();
    for Bomb { name, bytes, .. } in &bombs {
        fs::write(dir.join("mixed").join(name), bytes).expect("a file");
    }
    let enormous = fs::File::create(dir.join("mixed/enormous.png")).expect("a file");
    enormous.set_len(ENORMOUS).expect("a sparse file");

    let (ended, peak_without, time_without) = measured(dir, "good");
    let _ended = ended.expect(0);
    let (ended, peak, time) = measured(dir, "mixed");
    let ended = ended.expect(0);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let (more, longer) = (peak.saturating_sub(peak_without), time.saturating_sub(time_without));
    println!("peak {} MiB, {} MiB more; {time:?}, {longer:?} more", peak >> 20, more >> 20);
    assert!(more < EXTRA_BYTES, "the bombs took {} MiB more", more >> 20);
    let count = u32::try_from(bombs.len() + 1).expect("few");
    assert!(longer < SOON * count, "{count} bombs took {longer:?}");

    let rows = rows::of_folder(&dir.join("out-mixed"));
    assert_eq!(rows.len(), bombs.len() + 1 + GOOD as usize, "one row each");
    let code_of = |name: &str| {
        let mut found = rows.iter().filter(|row| row.key == format!("mixed/{name}"));
        let row = found.next().unwrap_or_else(|| panic!("no row for {name}"));
        assert!(found.next().is_none(), "two rows for {name}");
        match &row.outcome {
            Outcome::Failed { code, .. } => code.as_str(),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => "",
        }
    };
    for Bomb { name, codes, .. } in &bombs {
        let expected: &[&str] = if codes.is_empty() { &[""] } else { codes };
        let code = code_of(name);
        assert!(expected.contains(&code), "{name}: `{code}`");
    }
    assert_eq!(code_of("enormous.png"), "too_many_bytes");
    for index in 0..GOOD {
        assert_eq!(code_of(&format!("img_{index:05}.png")), "", "a good image beside bombs");
    }
}
