//! The pages in a real browser, beside a real fleet: what a person sees and clicks.
//!
//! `TRAWL_SCREENSHOTS=FOLDER` keeps pictures of what was seen.

use std::path::PathBuf;
use trawl_common::broker::{Broker, Disposition, rabbit::RabbitBroker};
use trawl_tests::{
    browser::Browser,
    images,
    programs::{make_model, run},
    scene::{PATIENCE, Scene, job_id},
    wait,
    web::{Monitor, monitor_command},
};

const TOKEN: &str = "a-token-of-the-browser-test";

/// A name that would be a script if it were ever taken for HTML.
const HOSTILE: &str = "<img src=x onerror=document.title=1>.png";

fn pictures() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("TRAWL_SCREENSHOTS")?);
    std::fs::create_dir_all(&folder).expect("a folder for the pictures");
    Some(folder)
}

fn keep(browser: &mut Browser, name: &str) {
    if let Some(folder) = pictures() {
        browser.picture(&folder.join(name));
    }
}

/// Takes one message of the lane and gives it up.
fn bury_one(scene: &Scene) {
    let lane = scene.name.parse().expect("a lane's name");
    let burying = async {
        let broker = RabbitBroker::connect(scene.stack.get("TRAWL_AMQP_URL")).await?;
        let mut consumer = broker.consume(&lane, 1).await?;
        let delivery = consumer.next().await?;
        let reason = "the output failed: <script>document.title=1</script> 503 Slow Down".to_owned();
        delivery.settle(Disposition::DeadLetter { reason }).await?;
        consumer.cancel().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(burying).expect("RabbitMQ answers");
}

/// Expressions of the job's page.
const DONE: &str = "(document.querySelector('.summary .big')?.textContent ?? '')";
const STATE: &str = "(document.querySelector('.page-head')?.innerText ?? '').toLowerCase()";

#[test]
fn a_person_follows_a_job_retries_what_was_given_up_and_looks_at_the_images() {
    let scene = Scene::new("browser");
    scene.bucket.upload(
        (0..71).map(|i| (format!("{}photo-{i:03}.png", scene.input()), images::landscape(i, 320, 240))),
    );
    scene.bucket.upload([(format!("{}{HOSTILE}", scene.input()), images::landscape(99, 320, 240))]);
    // 18 batches of about 0.6 s of one core: long beside the page's second, short beside the test.
    let job = job_id(run(&mut scene.submit(&make_model(&["--work", "60"]), &["--batch-size", "4"])));
    bury_one(&scene);
    let monitor = Monitor::start(&mut monitor_command(scene.stack, Some(TOKEN)), scene.dir.path());
    let here = format!("http://{}", monitor.address);
    let mut browser = Browser::start();
    browser.open(&here);
    browser.until("the job in the list", &format!("document.body.innerText.includes('{job}')"));

    // Progress moves, without a click.
    browser.open(&format!("{here}/jobs/{job}"));
    let worker = scene.worker(&["--micro-batch", "4"]);
    let mut seen = Vec::new();
    wait::until("three standings on the page", PATIENCE, || {
        let done = browser.eval(DONE).as_str().unwrap_or_default().to_owned();
        if seen.last() != Some(&done) {
            seen.push(done);
        }
        (seen.len() >= 4).then_some(())
    });
    browser.until("the dead letter", "document.body.innerText.includes('<script>document.title=1</script>')");
    keep(&mut browser, "job-light.png");
    browser.dark(true);
    keep(&mut browser, "job-dark.png");
    open_in_dark(&mut browser, &format!("{here}/workers"), &scene.name, "workers-dark.png");
    open_in_dark(&mut browser, &format!("{here}/queues"), &scene.name, "queues-dark.png");
    browser.dark(false);

    browser.open(&format!("{here}/jobs/{job}"));
    scene.wait_parts(17);
    sign_in(&mut browser);
    browser.click("section.attention", "Retry");
    browser.click("dialog", "Retry");
    browser.until("the job's completion on the page", &format!("{STATE}.includes('complete')"));
    scene.wait_complete(&job);
    browser.until("no dead letter", "!document.body.innerText.includes('document.title=1</script>')");

    the_gallery_shows_every_image(&mut browser, &here, &job);

    browser.open(&here);
    browser.until("the job in the list", &format!("document.body.innerText.includes('{job}')"));
    browser.dark(true);
    keep(&mut browser, "jobs-dark.png");
    browser.dark(false);
    keep(&mut browser, "jobs-light.png");

    // Redis is emptied: the page of the finished job is the same.
    drop(worker);
    let client = redis::Client::open(scene.stack.get("TRAWL_REDIS_URL")).expect("a URL");
    redis::cmd("FLUSHALL").exec(&mut client.get_connection().expect("a connection")).expect("it is emptied");
    wait::until("the monitor notices", PATIENCE, || {
        (monitor.get(&format!("/api/jobs/{job}"))["source"] == "bucket").then_some(())
    });
    browser.open(&format!("{here}/jobs/{job}"));
    browser.until("the finished job", &format!("{STATE}.includes('complete') && {DONE}.includes('100')"));
    the_gallery_shows_every_image(&mut browser, &here, &job);
    assert_eq!(browser.eval("document.title === '1'"), false, "nothing of what was shown was ever run");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

fn open_in_dark(browser: &mut Browser, url: &str, words: &str, picture: &str) {
    browser.dark(true);
    browser.open(url);
    browser.until(words, &format!("(document.querySelector('main')?.innerText ?? '').includes('{words}')"));
    keep(browser, picture);
}

fn sign_in(browser: &mut Browser) {
    browser.until("the page's script", "!document.querySelector('#sign-in').hasAttribute('data-wait')");
    browser.eval("document.querySelector('#sign-in').click()");
    browser.until("the dialog", "document.querySelector('#token') != null");
    browser.eval(&format!("document.querySelector('#token').value = '{TOKEN}'"));
    browser.click("dialog", "Sign in");
    browser.until("the end of the dialog", "document.querySelector('dialog') == null");
}

fn the_gallery_shows_every_image(browser: &mut Browser, here: &str, job: &str) {
    browser.open(&format!("{here}/jobs/{job}/gallery"));
    // To the end, page by page, as somebody scrolls.
    browser.until(
        "72 cards",
        "(() => { window.scrollTo(0, document.body.scrollHeight); \
         return document.querySelectorAll('.gallery > li').length === 72 })()",
    );
    browser.until(
        "every thumbnail",
        "(() => { const all = [...document.querySelectorAll('.gallery img')]; \
         for (const image of all) image.loading = 'eager'; \
         return all.length === 72 && all.every((image) => image.complete && image.naturalWidth > 0) })()",
    );
    assert_eq!(browser.eval("document.querySelector('.gallery img').naturalWidth"), 256);
    let labels =
        "[...document.querySelectorAll('.gallery .card')].every((card) => /class|\\d+/.test(card.innerText))";
    assert_eq!(browser.eval(labels), true, "each has its label");
    assert_eq!(
        browser.eval(&format!("document.body.innerText.includes({})", serde_json::json!(HOSTILE))),
        true
    );
    assert_eq!(browser.eval("document.querySelector('[onerror], [src=x]') === null"), true, "it stayed text");
    browser.eval("window.scrollTo(0, 0)");
    keep(browser, "gallery-light.png");
    browser.size(390, 844);
    let wide = "[...document.querySelectorAll('main, main > *, header.top, .filters > *, .gallery > li')]\
                .filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.className || e.tagName)";
    assert_eq!(browser.eval(wide), serde_json::json!([]), "nothing is wider than a phone");
    keep(browser, "gallery-phone.png");
    browser.size(1280, 860);
}
