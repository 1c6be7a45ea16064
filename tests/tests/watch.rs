//! `trawl watch` and its like on a terminal, as somebody sees them: a real job, real servers, and tmux.

use std::path::Path;
use trawl_tests::{
    programs::{make_model, run},
    scene::{PATIENCE, Scene, job_id},
    tmux::Terminal,
    wait,
};

const IMAGES: u32 = 240;

/// The folder of the binaries.
fn bin_path() -> String {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap().display().to_string();
    format!("{target}:{}", std::env::var("PATH").unwrap_or_default())
}

/// A terminal with the servers' addresses.
fn terminal(scene: &Scene, size: (u16, u16), more: &[(&str, &str)]) -> Terminal {
    let path = bin_path();
    let mut variables: Vec<(&str, &str)> =
        scene.stack.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    variables.push(("PATH", &path));
    variables.extend(more);
    Terminal::open(size, &variables, scene.dir.path()).expect("tmux is installed: see scripts/setup.sh")
}

/// A job that waits for its workers.
fn submitted(scene: &Scene) -> String {
    scene.bucket.upload_images(&scene.input(), IMAGES);
    // Some 10 to 100 ms a batch: long enough to be watched.
    let slow = make_model(&["--work", "8"]);
    job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])))
}

/// What stands before ` of 240 images`.
fn done(text: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.contains(" of 240 images"))?;
    line.split(" of 240 images").next()?.split_whitespace().last()?.parse().ok()
}

/// The terminal is the shell's again: no alternate screen, a cursor, and an echo of what is typed.
fn assert_restored(terminal: &Terminal, mark: &str) {
    terminal.enter(&format!("stty -a | tr ';' '\\n' | grep -c ' echo ' ; echo {mark}-$?"));
    terminal.wait("the shell's echo", |text| text.contains(&format!("{mark}-0")));
    assert_eq!(terminal.is_full_screen(), (false, false), "{}", terminal.text());
}

#[test]
fn a_job_is_watched_to_its_end_and_the_terminal_is_given_back() {
    let scene = Scene::new("watched");
    let job = submitted(&scene);
    let terminal = terminal(&scene, (100, 30), &[]);
    terminal.enter(&format!("trawl watch {job}; echo ended with $?"));
    let idle = terminal.wait("the warning", |text| text.contains("no worker takes from queue"));
    assert_eq!(done(&idle), Some(0), "{idle}");
    assert_eq!(terminal.is_full_screen(), (true, true));
    assert!(terminal.is_coloured());

    // A batch takes so long on any machine, and 60 of them, two at a time, long enough for all that follows.
    let slowly = [("TRAWL_FAILPOINTS", "settle.put.before=pause:400ms")];
    let worker = scene.worker_with(&["--micro-batch", "4"], &slowly);
    let begun = terminal.wait("progress", |text| done(text).is_some_and(|done| done > 0 && done < IMAGES));
    let later = terminal.wait("more of it", |text| done(text) > done(&begun));
    assert!(later.contains("running") && later.contains("1 consumer"), "{later}");
    terminal.wait("the worker's own report", |text| {
        text.lines().any(|line| line.contains("cpu") && !line.contains("trawl watch"))
    });
    terminal.wait("a batch in hand", |text| text.contains("BATCH IN HAND OF") && text.contains("000000"));

    // Smaller, and too small for anything but one line, and back.
    terminal.resize(50, 10);
    terminal.wait("a smaller frame", |text| text.lines().count() <= 10 && text.contains("rate"));
    terminal.resize(20, 3);
    terminal.wait("one line", |text| text.contains("% ") && text.contains("/s") && !text.contains("rate"));
    terminal.resize(100, 30);
    terminal.press("?");
    terminal.wait("the keys", |text| text.contains("leave; the job goes on"));
    terminal.press("?");

    let ended = terminal.wait("the end", |text| text.contains("ended with 0"));
    assert!(ended.contains("240 ok, 0 failed"), "{ended}");
    assert!(ended.contains("stages") && ended.contains("hint: `trawl results"), "{ended}");
    assert_restored(&terminal, "restored");
    drop(worker);
}

#[test]
fn whatever_ends_the_screen_the_terminal_is_given_back() {
    let scene = Scene::new("left");
    let job = submitted(&scene);
    let terminal = terminal(&scene, (100, 30), &[]);
    let watching = |round: &str| {
        terminal.enter(&format!("clear; trawl watch {job}; echo {round} ended with $?"));
        terminal.wait("a frame", |text| text.contains("? keys  q leave"));
    };
    let signal = |number: i32| {
        // SAFETY: kill takes no pointers; the screen is up, so the process in front is ours and alive.
        assert_eq!(unsafe { libc::kill(terminal.foreground(), number) }, 0);
    };
    for (round, leave, code) in [
        ("one", (&|| terminal.press("q")) as &dyn Fn(), 130),
        ("two", &|| terminal.press("C-c"), 130),
        ("three", &|| signal(libc::SIGTERM), 143),
        ("four", &|| signal(libc::SIGINT), 130),
    ] {
        watching(round);
        leave();
        let expected = format!("{round} ended with {code}");
        let text = terminal.wait("the end", |text| text.contains(&expected));
        assert!(text.contains(&format!("stopped watching; job {job} goes on")), "{text}");
        assert_restored(&terminal, round);
    }
    // A panic: its words are below what the shell showed, and readable.
    terminal.enter(&format!("clear; TRAWL_FAILPOINTS=screen.draw=panic@3 trawl watch {job}; echo end-$?"));
    let text = terminal.wait("the end", |text| text.contains("end-101"));
    assert!(text.contains("the failpoint `screen.draw` panics as told"), "{text}");
    assert_restored(&terminal, "panicked");
    // All jobs: leaving is no failure. Ctrl-Z gives the terminal back for a while.
    terminal.enter("clear; trawl watch; echo five ended with $?");
    terminal.wait("the list", |text| text.contains("SUBMITTED") && text.contains(&job));
    terminal.press("C-z");
    wait::until("the terminal", PATIENCE, || (terminal.is_full_screen() == (false, false)).then_some(()));
    terminal.enter("fg");
    terminal.wait("the list again", |text| text.contains("SUBMITTED") && text.contains("? keys"));
    terminal.press("q");
    wait::until("the terminal", PATIENCE, || (terminal.is_full_screen() == (false, false)).then_some(()));
    assert_restored(&terminal, "five");
}

#[test]
fn a_dumb_terminal_and_a_pipe_get_lines_and_no_color_none() {
    let scene = Scene::new("plain");
    let job = submitted(&scene);
    let dumb = terminal(&scene, (100, 30), &[("TERM", "dumb")]);
    dumb.enter(&format!("trawl watch {job}"));
    dumb.wait("a line", |text| text.contains("running: 0 of 240 images (0 %)"));
    assert!(!dumb.is_full_screen().0);
    dumb.press("C-c");

    let none = terminal(&scene, (100, 30), &[("NO_COLOR", "1")]);
    none.enter(&format!("trawl watch {job}"));
    none.wait("a frame", |text| text.contains("? keys  q leave"));
    assert!(!none.is_coloured());
    none.press("q");
    none.wait("the end", |text| text.contains("goes on"));
    none.enter(&format!("clear; trawl watch {job} 2>&1 | cat"));
    none.wait("a line", |text| text.contains("running: 0 of 240 images (0 %)"));
    assert!(!none.is_full_screen().0);
    none.press("C-c");
}

#[test]
fn a_submission_that_is_watched_has_a_bar_and_says_the_next_step() {
    let scene = Scene::new("bar");
    scene.bucket.upload_images(&scene.input(), IMAGES);
    let slow = make_model(&["--work", "8"]);
    let _worker = scene.worker(&["--micro-batch", "4"]);
    let terminal = terminal(&scene, (100, 30), &[]);
    let (source, out) = (format!("s3://trawl/{}", scene.input()), format!("s3://trawl/{}", scene.out()));
    let submit = format!(
        "trawl submit {source} --out {out} --queue {} --model {} --batch-size 4",
        scene.name,
        slow.display()
    );
    terminal.enter(&format!("{submit} --watch; echo ended with $?"));
    terminal.wait("a bar that moves", |text| {
        text.lines().any(|line| line.contains("[=") && line.contains("of 240 images"))
    });
    let ended = terminal.wait("the end", |text| text.contains("ended with 0"));
    assert!(ended.contains("complete: 240 of 240 images (100 %)"), "{ended}");
    assert!(ended.contains(&format!("trawl results {out}")), "{ended}");
    assert!(!ended.contains("[="), "the bar is gone: {ended}");
    assert_restored(&terminal, "restored");
}

#[test]
fn an_embedded_run_has_the_same_bar() {
    let scene = Scene::new("embedded-bar");
    trawl_tests::images::folder(&scene.dir.path().join("photos"), IMAGES);
    let slow = make_model(&["--work", "8"]);
    let terminal = terminal(&scene, (100, 30), &[]);
    terminal.enter(&format!(
        "trawl run photos --model {} --out labels --batch-size 4 --threads 1; echo ended with $?",
        slow.display()
    ));
    terminal.wait("a bar that moves", |text| {
        text.lines().any(|line| line.contains("[=") && line.contains("running: "))
    });
    let ended = terminal.wait("the end", |text| text.contains("ended with 0"));
    assert!(ended.contains("240 images: 240 ok, 0 failed") && !ended.contains("[="), "{ended}");
    assert_restored(&terminal, "restored");
}
