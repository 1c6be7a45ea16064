//! What is lost or damaged between the servers, and how `verify`, `repair` and `dead` bring it back.
//!
//! On real servers that all tests of the file share; one test at a time, because some of them wipe Redis.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};
use trawl_tests::{
    programs::{Ended, make_model, run, tiny_model},
    scene::{PATIENCE, Scene, job_id},
    wait,
};

/// Whoever holds it has the servers for itself; the failure of one test is no reason for another's.
fn alone() -> MutexGuard<'static, ()> {
    static SERVERS: Mutex<()> = Mutex::new(());
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(scene: &Scene) -> String {
    format!("s3://trawl/{}", scene.out())
}

fn verify(scene: &Scene, flags: &[&str]) -> Ended {
    run(scene.trawl(&["verify", &place(scene), "--output", "json"]).args(flags))
}

fn repair(scene: &Scene, flags: &[&str]) -> Ended {
    run(scene.trawl(&["repair", &place(scene), "--output", "json"]).args(flags))
}

fn wait_success(scene: &Scene) {
    wait::until("_SUCCESS", PATIENCE, || {
        scene.bucket.has(&format!("{}/_SUCCESS", scene.out())).then_some(())
    });
}

/// Only what was found, by kind.
fn counts(ended: &Ended) -> Vec<(String, u64)> {
    let json = ended.json();
    let counts = json["counts"].as_object().expect("counts");
    let found = counts.iter().map(|(kind, n)| (kind.clone(), n.as_u64().expect("a number")));
    found.filter(|(_, n)| *n > 0).collect()
}

fn flush_redis(scene: &Scene) {
    let url = scene.stack.get("TRAWL_REDIS_URL");
    let (login, host) = url.rsplit_once('@').expect("the stack's Redis has a password");
    let password = login.rsplit_once(':').expect("user:password").1;
    let mut socket = TcpStream::connect(host.split('/').next().expect("host and port")).expect("Redis");
    socket.write_all(format!("AUTH {password}\r\nFLUSHALL\r\nQUIT\r\n").as_bytes()).expect("a command");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "+OK\r\n".repeat(3));
}

/// A request to RabbitMQ's management API; the answer's body.
fn manage(scene: &Scene, method: &str, path: &str, body: &str) -> String {
    let program = "import sys,base64,urllib.request as r,urllib.parse as p\n\
        u=p.urlsplit(sys.argv[1]);q=r.Request(f'http://{u.hostname}:{u.port}/api/'+sys.argv[3],method=sys.argv[2])\n\
        q.add_header('Authorization','Basic '+base64.b64encode(f'{u.username}:{u.password}'.encode()).decode())\n\
        q.add_header('Content-Type','application/json')\n\
        q.data=sys.argv[4].encode() or None\n\
        print(r.build_opener(r.ProxyHandler({})).open(q).read().decode())";
    let url = scene.stack.get("RABBITMQ_MANAGEMENT_URL");
    run(Command::new("python3").args(["-c", program, url, method, path, body])).expect(0).stdout
}

#[test]
fn a_wiped_ledger_in_mid_job_is_rebuilt_and_counts_exactly() {
    const IMAGES: u32 = 160;
    let _servers = alone();
    let scene = Scene::new("wiped");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), IMAGES);
    let slow = make_model(&["--work", "4"]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    let _worker = scene.worker(&["--micro-batch", "4"]);
    wait::until("some parts", PATIENCE, || (scene.parts().len() >= 8).then_some(()));
    flush_redis(&scene);
    assert!(scene.parts().len() < 38, "wiped too late to prove anything");
    wait_success(&scene);
    let status = scene.wait_complete(&job);
    assert_eq!((&status["images_ok"], &status["images_failed"]), (&IMAGES.into(), &0.into()));
    assert_eq!((&status["batches_done"], &status["batches_planned"]), (&40.into(), &40.into()));
    scene.assert_keys(IMAGES as usize);
    assert_eq!(verify(&scene, &["--deep"]).expect(0).json()["complete"], true);

    // Wiped after the end, there is nobody to notice but a person.
    flush_redis(&scene);
    let _unknown = run(&mut scene.trawl(&["status", &job])).expect(4);
    let repaired = repair(&scene, &[]).expect(0).json();
    assert_eq!((&repaired["complete"], &repaired["enqueued"]), (&true.into(), &0.into()));
    assert_eq!(scene.status(&job)["images_ok"], IMAGES);
}

#[test]
fn a_deleted_queue_is_filled_again_by_repair() {
    const IMAGES: u32 = 120;
    let _servers = alone();
    let scene = Scene::new("queue");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), IMAGES);
    let slow = make_model(&["--work", "4"]);
    let _job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "2"])));
    let worker = scene.worker(&["--micro-batch", "2"]);
    wait::until("some parts", PATIENCE, || (scene.parts().len() >= 6).then_some(()));
    manage(&scene, "DELETE", &format!("queues/%2f/trawl.{}", scene.name), "");
    assert!(scene.parts().len() < 55, "deleted too late to prove anything");
    let begun = verify(&scene, &[]).expect(1).json();
    assert_eq!((&begun["verdict"], &begun["plan_done"]), (&"incomplete".into(), &true.into()));

    let foreseen = repair(&scene, &["--dry-run"]).expect(0).json();
    assert!(foreseen["enqueued"].as_u64() > Some(0) && foreseen["dry_run"] == true, "{foreseen}");
    let repaired = repair(&scene, &[]).expect(0).json();
    assert!(repaired["enqueued"].as_u64() > Some(0), "{repaired}");
    wait_success(&scene);
    assert_eq!(verify(&scene, &["--deep"]).expect(0).json()["rows"], IMAGES);
    scene.assert_keys(IMAGES as usize);
    drop(worker);
}

#[test]
fn verify_finds_every_damage_and_repair_heals_it() {
    const IMAGES: u32 = 24;
    let _servers = alone();
    let scene = Scene::new("damage");
    let prefix = format!("{}/in/", scene.name);
    scene.bucket.upload_images(&prefix, IMAGES);
    let _job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let worker = scene.worker(&[]);
    wait_success(&scene);
    // The same images by another model, for a part of its.
    let other = make_model(&["--work", "1"]);
    let elsewhere = format!("{}/other", scene.name);
    let (source, out) = (format!("s3://trawl/{prefix}"), format!("s3://trawl/{elsewhere}"));
    let mut submit =
        scene.trawl(&["submit", &source, "--out", &out, "--queue", &scene.name, "--batch-size", "4"]);
    let _other = job_id(run(submit.arg("--model").arg(&other)));
    wait::until("the other _SUCCESS", PATIENCE, || {
        scene.bucket.has(&format!("{elsewhere}/_SUCCESS")).then_some(())
    });
    assert_eq!(counts(&verify(&scene, &["--deep"]).expect(0)), []);

    let part = |n: u32| format!("{}/part-{n:08}.parquet", scene.out());
    let bytes = |n| scene.bucket.get(&part(n)).to_vec();
    let heal = |what: &str, found: &[(&str, u64)]| {
        let named: Vec<(String, u64)> = found.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        assert_eq!(counts(&verify(&scene, &[]).expect(1)), named, "{what}");
        let kept = found.iter().any(|(kind, _)| !matches!(*kind, "missing" | "bad_manifest"));
        let _listed = repair(&scene, &["--dry-run"]).expect(i32::from(kept));
        let _healed = repair(&scene, &["--discard"]).expect(0);
        wait_success(&scene);
        assert_eq!(counts(&verify(&scene, &["--deep"]).expect(0)), [], "{what}");
        scene.assert_keys(IMAGES as usize);
    };
    scene.bucket.delete(&part(1));
    heal("a part deleted", &[("bad_manifest", 1), ("missing", 1)]);
    let whole = bytes(2);
    scene.bucket.upload([(part(2), whole[..whole.len() / 2].to_vec())]);
    heal("a part truncated", &[("bad_manifest", 1), ("unreadable", 1)]);
    let copies = ["part-00000099.parquet", "copy.parquet", "part-00000001 (1).parquet"];
    scene.bucket.upload(copies.map(|name| (format!("{}/{name}", scene.out()), bytes(0))));
    heal("a part under other names", &[("duplicate", 3)]);
    scene
        .bucket
        .upload([(part(3), scene.bucket.get(&format!("{elsewhere}/part-00000003.parquet")).to_vec())]);
    heal("a part of another model", &[("bad_manifest", 1), ("foreign", 1)]);
    drop(worker);

    // Nothing but the store is needed to look: at these ports nobody listens.
    let away = [("TRAWL_AMQP_URL", "amqp://127.0.0.1:1"), ("TRAWL_REDIS_URL", "redis://127.0.0.1:1")];
    let mut look = scene.trawl(&["verify", &place(&scene), "--deep", "--output", "json"]);
    assert_eq!(run(look.envs(away)).expect(0).json()["rows"], IMAGES);
    let _away = run(scene.trawl(&["repair", &place(&scene)]).envs(away)).expect(5);
    let nowhere = format!("s3://trawl/{}/nowhere", scene.name);
    let _none = run(&mut scene.trawl(&["verify", &nowhere])).expect(4);
}

#[test]
fn dead_letters_are_shown_and_dropped() {
    let _servers = alone();
    let scene = Scene::new("dead");
    let _worker = scene.worker(&[]);
    let body = serde_json::json!({
        "properties": {"delivery_mode": 2}, "routing_key": format!("trawl.{}", scene.name),
        "payload": "this is \u{1b}[31mno message", "payload_encoding": "string",
    });
    let sent = manage(&scene, "POST", "exchanges/%2f/amq.default/publish", &body.to_string());
    assert!(sent.contains("\"routed\":true"), "{sent}");
    let list = |flags: &[&str]| {
        run(scene.trawl(&["dead", "list", "--queue", &scene.name, "--output", "json"]).args(flags))
            .expect(0)
            .stdout
    };
    let letter = wait::until("the dead letter", PATIENCE, || {
        list(&[]).lines().next().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
    });
    assert_eq!((&letter["kind"], &letter["queue"]), (&"junk".into(), &scene.name.as_str().into()));
    assert_eq!(letter["body"], "this is \\x1b[31mno message");
    assert_eq!(list(&["--job", "job-1"]), "", "junk is no job's");
    let table = run(&mut scene.trawl(&["dead", "list"])).expect(0);
    assert!(table.stdout.contains("junk") && !table.stdout.contains('\u{1b}'), "{}", table.stdout);
    let asked = run(&mut scene.trawl(&["dead", "drop", "--queue", &scene.name])).expect(2);
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    let dropped = run(&mut scene.trawl(&["dead", "drop", "--queue", &scene.name, "--yes"])).expect(0);
    assert!(dropped.stdout.contains("dropped"), "{}", dropped.stdout);
    assert_eq!(list(&[]), "");
}

#[test]
fn a_cancelled_job_stays_cancelled_when_redis_is_wiped() {
    let _servers = alone();
    let scene = Scene::new("given-up");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), 8);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "2"])));
    let _cancelled = run(&mut scene.trawl(&["cancel", &job])).expect(0);
    flush_redis(&scene);
    assert_eq!(verify(&scene, &[]).expect(1).json()["cancelled"], true);
    let repaired = repair(&scene, &[]).expect(0).json();
    assert_eq!((&repaired["cancelled"], &repaired["enqueued"]), (&true.into(), &0.into()));
    assert_eq!(scene.status(&job)["state"], "cancelled");
    let _worker = scene.worker(&[]);
    assert_eq!(job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "2"]))), job);
    wait_success(&scene);
    assert_eq!(verify(&scene, &["--deep"]).expect(0).json()["cancelled"], false);
}
